"""The scan's observer: row statistics taken down to a few numbers per head, in one prefill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.kernels import RowStatistics, largest
from headscope.probes.contribution import Contribution
from headscope.probes.errors import Refused
from headscope.probes.prompts import Prompt
from headscope.probes.recipe import Watch
from headscope.probes.residual import stacked
from headscope.probes.rownumbers import Placed, RowNumbers, joined, outlined
from headscope.probes.rows import RowObserver
from headscope.probes.seam import AttentionCall
from headscope.probes.verify import refuse_unbounded

if TYPE_CHECKING:
    from headscope.probes.model import Model

_EARLY = 16  # rows at the start that are always in the sample: they see so few keys that they stand out
_RECEIVERS = 8
_VALUES = 48  # keys whose values tell how large an ordinary one is
_ONE_IN = 2  # of so many sampled rows one must see a key before the mass it gets counts: heads that follow
# the last full stop would else have a sink wherever the text was cut
# Bytes of outputs, and layers, to hold until they are taken down together: while some wait on a GPU, the
# others' numbers are asked for, so that little is left to do after the last layer.
_HELD = {"cpu": 0, "cuda": 1 << 29}
_LAYERS = 8


def early_rows(count: int) -> int:
    """How many of `count` sampled rows are the first ones of the text, one and all."""
    return min(_EARLY, count // 2)


@dataclass(frozen=True)
class Found:
    """Arrays over all layers, on the device of the first: see `Observation`."""

    sampled: dict[str, Tensor]
    exact: dict[str, Tensor]
    head: dict[str, Tensor]


@dataclass(frozen=True)
class _Seen:
    """What one layer's call leaves behind."""

    layer: int
    sampled: RowStatistics
    exact: RowStatistics
    values: Tensor  # of the yardstick's keys. [1, G, K, D]
    first: Tensor  # value of the first key. [1, G, 1, D]
    head: dict[str, Tensor]

    @property
    def held(self) -> int:
        """Bytes of the outputs, by far the most of it."""
        outputs = (x for s in (self.sampled, self.exact) for x in (s.output, s.kept_output))
        return sum(x.numel() * x.element_size() for x in outputs)


@dataclass
class HeadRows:
    """An observer of one prompt (B = 1, whole prefill).

    Per sampled row, averaged later: `first_<k>`, `recent_<w>`, `kept_<s>_<w>` and
    `cut_error_<s>_<w>` (rows that see more than s + w keys), `entropy` over ln(visible keys),
    `activity`, `<span>` masses and `<offset>` masses, `top_mass`; `copying` where asked.
    Per exact row: `top_key`, `top_mass`, `entropy`, `first_<k>`, `kept...`, `cut_error...`,
    `group_cut_error...`, span masses.

    `cut_error` is the norm of what a head adds to the residual stream when it sees everything
    minus what it adds when cut to sink + window, over the norm of the whole attention output of
    that row; `group_cut_error` the same for the summed heads of a KV group. `activity` is the
    norm of what a head adds over the median norm of what a single value would add (1 = moves one
    ordinary token, 0 = rests on a drained one).

    A GPU is asked as little as can be while the layers pass: what can wait is worked out for many
    layers at once, for a thousand small launches take it longer than what they compute.
    """

    model: Model
    prompt: Prompt
    sample: Tensor
    exact: Tensor
    watch: Watch
    prefix: int
    _waiting: list[_Seen] = field(default_factory=list)
    _sampled: list[dict[str, Tensor]] = field(default_factory=list)
    _exact: list[dict[str, Tensor]] = field(default_factory=list)
    _head: list[dict[str, Tensor]] = field(default_factory=list)
    _observers: dict[str, RowObserver] = field(default_factory=dict)
    _placed: Placed = field(default_factory=Placed)

    @property
    def _offsets(self) -> dict[str, tuple[int, ...]]:
        """The prompt's named offsets, and the one that always makes sense."""
        return {"previous": (1,)} | dict(self.prompt.offsets)

    @cached_property
    def _directions(self) -> tuple[Tensor, Tensor]:
        """The unembeddings of the prompt's distinct tokens [u, hidden], and which one each token is [n]."""
        distinct, which = torch.tensor(self.prompt.ids).unique(return_inverse=True)
        return self.model.unembedding(distinct), which

    def see(self, call: AttentionCall) -> None:
        if len(self.prompt) != call.q.shape[2] or call.q.shape[0] != 1:
            raise Refused("A prompt is observed alone and in one prefill.")
        copies = "echo" in self.prompt.offsets
        text = self.prompt.answer is None  # in which sinks are looked for: what keys receive is read
        sampled = self._measure(call, "sample", self.sample, top=1 if copies else 0, received=text)
        looks = bool(self.prompt.pictures)
        exact = self._measure(call, "exact", self.exact, top=self.watch.top, received=looks)
        head: dict[str, Tensor] = {}
        if looks:
            head["look"] = self._look(exact)
        if text:
            head |= self._receivers(call, sampled)
            prefix = torch.arange(min(self.prefix, len(self.prompt)))
            early = self._measure(call, "prefix", prefix, plain=True, received=False)
            head["prefix_first"] = early.first[0, :, :, 0].mean(-1)
        values = call.v[:, :, self._once("spread", call.v.device, self._spread)]
        if self._waiting and self._waiting[0].values.device != values.device:
            self._take_down()
        first = call.v[:, :, :1].clone()
        self._waiting.append(_Seen(call.layer, outlined(sampled), outlined(exact), values, first, head))
        held = sum(x.held for x in self._waiting)
        if held > _HELD.get(values.device.type, 0) or len(self._waiting) == _LAYERS:
            self._take_down()

    def _take_down(self) -> None:
        """Work out the numbers of all layers that wait, and forget their outputs."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        weights = [self.model.output_weight(x.layer) for x in waiting]
        windows = tuple(self.model.geometry.windows[x.layer] for x in waiting)
        added = Contribution(weights, self.model.geometry.kv_heads)
        sampled, exact = joined([x.sampled for x in waiting]), joined([x.exact for x in waiting])
        typical = added.of_values(torch.cat([x.values for x in waiting])).median(-1).values.clamp_min(1e-12)
        numbers: list[dict[str, Tensor]] = []
        for name, rows, statistics in (("sample", self.sample, sampled), ("exact", self.exact, exact)):
            what = RowNumbers(
                self.prompt, rows, self.watch, tuple(self._offsets), windows, self._placed, name
            )  # fmt: skip
            numbers.append(what.of(statistics, added, typical))
        a, b = numbers
        b |= {"top_key": exact.top_key, "top_masses": exact.top_mass}
        if "echo" in self.prompt.offsets:
            a["copying"] = torch.stack([self._copying(sampled, i, w) for i, w in enumerate(weights)])
        # Apart from the others: a product of 49 rows may round differently from run to run.
        first = added.of_values(torch.cat([x.first for x in waiting]))[..., 0]
        head = stacked([x.head for x in waiting])
        head |= {"value_norm_median": typical, "value_norm_first": first}
        for store, found in ((self._sampled, a), (self._exact, b), (self._head, head)):
            store.append(found)

    def _once(self, name: str, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
        return self._placed.get(name, device, make)

    def _measure(
        self,
        call: AttentionCall,
        name: str,
        rows: Tensor,
        *,
        top: int = 1,
        received: bool,
        plain: bool = False,
    ) -> RowStatistics:
        """Statistics of the rows called `name`; `top` 0 asks for the largest mass without its key."""
        if name not in self._observers:
            watch = self.watch.model_copy(update={"top": top, "received": received})
            if plain:
                watch = watch.model_copy(update={"first": (1,), "recent": (), "keep": ()})
            spans = {n: torch.tensor([s]) for n, s in self.prompt.spans.items()} if not plain else {}
            self._observers[name] = RowObserver(
                rows[None], watch, spans=spans, offsets=self._offsets if not plain else {}
            )
        ((_, _, statistics),) = self._observers[name].measure(call)
        return statistics

    def _spread(self) -> Tensor:
        """Keys whose values tell how large an ordinary one is.

        Evenly spaced, not drawn: the yardstick must not move with the sample of rows.
        """
        return torch.linspace(0, len(self.prompt) - 1, min(_VALUES, len(self.prompt))).long()

    def _copying(self, s: RowStatistics, index: int, weight: Tensor) -> Tensor:
        """Share of the prompt's other tokens whose logit a head raises less than that of the token
        it looks at most. 0 ... 1, 0.5 by chance. [H, R]"""
        added = torch.einsum("hrd,hdm->hrm", s.output[index], weight.float())
        table, which = self._directions
        logits = added @ self._once("table", added.device, lambda: table).T
        looked_at = self._once("which", added.device, lambda: which)[s.top_key[index, ..., 0]]
        below = logits < logits.gather(-1, looked_at[..., None])
        return below.sum(-1) / max(1, table.shape[0] - 1)

    def _look(self, s: RowStatistics) -> Tensor:
        """The mass on every image token, mean over the exact rows. [H, m]"""
        image = [p for run in self.prompt.image_runs for p in range(*run)]
        at = self._once("image", s.received.device, lambda: torch.tensor(image))
        return s.received[0][:, at] / len(self.exact)

    def _receivers(self, call: AttentionCall, s: RowStatistics) -> dict[str, Tensor]:
        """The keys with the most received mass per row that sees them. [H, 8]

        The first rows are all in the sample, the later ones stand for more than themselves.
        """
        n, early = len(self.prompt), max(1, early_rows(len(self.sample)))
        pad = torch.nn.functional.pad
        total = pad(s.received[0], (0, n - s.received.shape[-1]))
        rows = self.sample[:early]
        first = self._measure(call, "early", rows, top=0, received=True, plain=True).received[0]
        first = pad(first, (0, n - first.shape[-1]))
        weight = (n - early) / max(1, len(self.sample) - early)
        share = (first + weight * (total - first)) / self._once(
            "rows that see", total.device, lambda: torch.arange(n, 0, -1)
        )
        share = share.masked_fill(self._once("seldom seen", total.device, self._seldom), 0.0)
        mass, key = largest(share, _RECEIVERS)
        return {"receiver_key": key, "receiver_mass": mass}

    def _seldom(self) -> Tensor:
        """Which keys too few sampled rows see. [n]"""
        earlier = torch.searchsorted(self.sample, torch.arange(len(self.prompt)))  # rows before the key
        return _ONE_IN * (len(self.sample) - earlier) < len(self.sample)

    def collect(self) -> Found:
        """All layers put together; nothing here waits for the GPU."""
        self._take_down()
        sampled = _all_layers(self._sampled)
        return Found(sampled, _all_layers(self._exact), _all_layers(self._head))

    def check(self, found: Found) -> None:
        """Refuse rows whose scores are not finite."""
        bounded = found.sampled["lse"].isfinite().all()
        if not bool(bounded):
            for layer, lse in enumerate(found.sampled["lse"]):
                refuse_unbounded(self.model.name, layer, lse)


def _all_layers(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all layers, put together on the device of the first."""
    device = next(iter(parts[0].values())).device
    return {name: torch.cat([part[name].to(device) for part in parts]) for name in parts[0]}
