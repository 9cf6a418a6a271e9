"""Observing chosen rows of every head while a model runs.

A `RowObserver` is told which query rows to look at and what to measure; attached to the seam it
collects exact statistics of those rows through prefill, chunks and cached decoding alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from headscope.kernels import RowStatistics, row_statistics, sent
from headscope.probes.errors import DidNotFire, HeadscopeError
from headscope.probes.recipe import Watch
from headscope.probes.seam import AttentionCall
from headscope.probes.visibility import Visibility

_EVEN = 128  # a multiple of which is a good number of keys


@dataclass(frozen=True)
class _Place:
    """Where the asked rows of one sequence lie in a call, on its device: the same in every layer."""

    columns: Tensor  # of `rows`, on the CPU. [R]
    local: Tensor  # index among the queries of the call. [R]
    at: Tensor  # as in `row_statistics`, like the next four. [1, R]
    lo: Tensor
    hi: Tensor
    start: Tensor
    spans: Tensor | None
    shift: int
    stop: int  # keys from here on are not read
    prepared: dict[str, Any] = field(default_factory=dict)


@dataclass
class RowObserver:
    """Statistics of `rows` in every layer; an `Observer` for `attach`.

    Attributes:
        rows: positions in the unpadded sequences, no repeats within one. [B, R]
        watch: what to measure.
        spans: named key ranges in unpadded positions. [B, 2] each
        offsets: named sets of distances back.
        layers: the result per layer, on the CPU, all rows in the order asked; keys are named by
            unpadded position and `received` is counted in them. NaN where a row has not come yet.
    """

    rows: Tensor
    watch: Watch = field(default_factory=Watch)
    spans: Mapping[str, Tensor] = field(default_factory=dict)
    offsets: Mapping[str, Sequence[int]] = field(default_factory=dict)
    layers: dict[int, RowStatistics] = field(default_factory=dict)
    _came: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _places: WeakKeyDictionary[Visibility, dict[tuple[Any, ...], _Place | None]] = field(
        default_factory=WeakKeyDictionary, repr=False
    )

    def see(self, call: AttentionCall) -> None:
        """Measure the asked rows that lie in this call, whole sequences or a chunk of them."""
        if self.rows.shape[0] != call.q.shape[0]:
            raise HeadscopeError(
                f"rows names {self.rows.shape[0]} sequences, but the batch has {call.q.shape[0]}."
            )
        for sequence, columns, statistics in self.measure(call):
            table = self.layers.setdefault(call.layer, _empty(statistics, *self.rows.shape))
            self.layers[call.layer] = _merge(table, sequence, columns, statistics)
            came = self._came.setdefault(call.layer, torch.zeros(self.rows.shape, dtype=torch.bool))
            came[sequence, columns] = True

    def measure(self, call: AttentionCall) -> Iterator[tuple[int, Tensor, RowStatistics]]:
        """For each sequence with rows in this call: its index, their columns, their statistics.

        The columns are on the CPU, the statistics (of one sequence, B = 1) on the device of the
        call. Once the rows of a forward pass are placed, nothing here waits for that device.
        """
        for b in range(call.q.shape[0]):
            place = self._place(call, b)
            if place is None:
                continue
            statistics = row_statistics(
                call.q[b : b + 1, :, place.local], call.k[b : b + 1, :, : place.stop],
                call.v[b : b + 1, :, : place.stop], place.at, place.lo, place.hi,
                scaling=call.scaling, start=place.start, softcap=call.softcap, sinks=call.sinks,
                first=self.watch.first, recent=self.watch.recent, keep=self.watch.keep,
                spans=place.spans, offsets=list(self.offsets.values()),
                top=self.watch.top, received=self.watch.received,
                chunk_elements=self.watch.chunk_elements, prepared=place.prepared,
            )  # fmt: skip
            yield b, place.columns, _unshift(statistics, place.shift)

    def _place(self, call: AttentionCall, b: int) -> _Place | None:
        """Where the rows of sequence `b` lie in this call; worked out by its first layer for all."""
        places = self._places.setdefault(call.visible, {})
        key = (b, call.q.shape[2], call.k.shape[2], call.q.device)
        if key not in places:
            places[key] = self._find(call, b)
        return places[key]

    def _find(self, call: AttentionCall, b: int) -> _Place | None:
        device, gone, offset = call.q.device, call.visible.key_offset, call.visible.query_offset
        start = call.visible.starts(call.q.shape[0])[b]
        at = self.rows[b].cpu() + start
        columns = ((at >= offset) & (at < offset + call.q.shape[2])).nonzero()[:, 0]
        if not len(columns):
            return None
        shift = start - gone  # from unpadded positions to indices of the keys held
        spans = [s[b].cpu() + shift for s in self.spans.values()]
        # Keys after the last row are seen by no row; a GPU is at its slowest with odd numbers of them.
        last = int(at[columns].max()) + 1
        stop = (
            min(-(-last // _EVEN) * _EVEN, call.k.shape[2]) if call.visible.plain_causal else call.k.shape[2]
        )
        there = sent(at[columns], device)
        lo, hi = call.visible.ranges(there, call.k.shape[2], b)
        return _Place(
            columns, there - offset, there[None] - gone, lo[None], hi[None],
            sent(torch.tensor([shift]), device),
            sent(torch.stack(spans)[None], device) if spans else None, shift, stop,
        )  # fmt: skip

    def check(self) -> None:
        """Raise DidNotFire unless every asked row came in every layer."""
        if not self.layers:
            raise DidNotFire("No row that was asked for came by.")
        for layer, came in sorted(self._came.items()):
            missing = self.rows[~came.to(self.rows.device)]
            if missing.numel():
                raise DidNotFire(f"Rows {missing.tolist()[:8]} never came by in layer {layer}.")


def _unshift(statistics: RowStatistics, shift: int) -> RowStatistics:
    """Name keys by unpadded position instead of by their index among the keys held."""
    key, received = statistics.top_key, statistics.received
    if shift > 0:
        received = received[..., shift:]
    elif shift < 0:
        received = torch.nn.functional.pad(received, (-shift, 0))
    return replace(statistics, top_key=torch.where(key >= 0, key - shift, key), received=received)


def _empty(like: RowStatistics, sequences: int, rows: int) -> RowStatistics:
    """A table for all rows, NaN until filled, so that a forgotten row is noticed."""
    table = {}
    for name in (f.name for f in fields(RowStatistics)):
        sample = getattr(like, name)
        shape = [sequences, sample.shape[1], rows, *sample.shape[3:]]
        if name == "received":
            shape = [sequences, sample.shape[1], 0]
        value = torch.nan if sample.is_floating_point() else -1
        table[name] = torch.full(shape, value, dtype=sample.dtype)
    return RowStatistics(**table)


def _merge(table: RowStatistics, sequence: int, columns: Tensor, fresh: RowStatistics) -> RowStatistics:
    """Write one sequence's fresh rows into the table; received mass adds up."""
    for name in (f.name for f in fields(RowStatistics) if f.name != "received"):
        getattr(table, name)[sequence][:, columns] = getattr(fresh, name)[0].cpu()
    grown = max(table.received.shape[-1], fresh.received.shape[-1])
    received = torch.nn.functional.pad(table.received, (0, grown - table.received.shape[-1]))
    received[sequence, :, : fresh.received.shape[-1]] += fresh.received[0].cpu()
    return replace(table, received=received)
