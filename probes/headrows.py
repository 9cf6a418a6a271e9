"""The scan's observer: row statistics taken down to a few numbers per head, in one prefill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.kernels import RowStatistics
from headscope.probes.contribution import Contribution
from headscope.probes.errors import Refused
from headscope.probes.prompts import Prompt
from headscope.probes.recipe import Watch
from headscope.probes.residual import stacked
from headscope.probes.rows import RowObserver
from headscope.probes.seam import AttentionCall
from headscope.probes.verify import refuse_unbounded

if TYPE_CHECKING:
    from headscope.probes.model import Model

EARLY = 16  # rows at the start that are always in the sample: they see so few keys that they stand out
_RECEIVERS = 8
_VALUES = 48  # keys whose values tell how large an ordinary one is
_ONE_IN = 2  # of so many sampled rows one must see a key before the mass it gets counts: heads that follow
# the last full stop would else have a sink wherever the text was cut


@dataclass(frozen=True)
class Found:
    """Arrays over all layers, on the device of the first: see `Observation`."""

    sampled: dict[str, Tensor]
    exact: dict[str, Tensor]
    head: dict[str, Tensor]


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
    """

    model: Model
    prompt: Prompt
    sample: Tensor
    exact: Tensor
    watch: Watch
    prefix: int
    _sampled: list[dict[str, Tensor]] = field(default_factory=list)
    _exact: list[dict[str, Tensor]] = field(default_factory=list)
    _head: list[dict[str, Tensor]] = field(default_factory=list)
    _observers: dict[str, RowObserver] = field(default_factory=dict)
    _placed: dict[tuple[str, torch.device], Tensor] = field(default_factory=dict)

    @property
    def _offsets(self) -> dict[str, tuple[int, ...]]:
        """The prompt's named offsets, and the one that always makes sense."""
        return {"previous": (1,)} | dict(self.prompt.offsets)

    @cached_property
    def _directions(self) -> tuple[Tensor, Tensor]:
        """The unembeddings of the prompt's distinct tokens [u, hidden], and which one each token is [n]."""
        distinct, which = torch.tensor(self.prompt.ids).unique(return_inverse=True)
        return self.model.unembedding(distinct), which

    def _once(self, name: str, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, moved to the device by the first layer there and kept for the others.

        A copy from the host makes it wait for all work queued on the device. Where no layer but
        the first waits, the host runs ahead, and a scan costs the device's own work alone.
        """
        if (name, device) not in self._placed:
            self._placed[name, device] = make().to(device)
        return self._placed[name, device]

    def see(self, call: AttentionCall) -> None:
        if len(self.prompt) != call.q.shape[2] or call.q.shape[0] != 1:
            raise Refused("A prompt is observed alone and in one prefill.")
        added = Contribution(self.model.output_weight(call.layer), self.model.geometry.kv_heads)
        copies = "echo" in self.prompt.offsets
        text = self.prompt.answer is None  # in which sinks are looked for: what keys receive is read
        sampled = self._measure(call, "sample", self.sample, top=1 if copies else 0, received=text)
        looks = bool(self.prompt.pictures)
        exact = self._measure(call, "exact", self.exact, top=self.watch.top, received=looks)
        spread = self._once("spread", call.v.device, self._spread)
        typical = added.of_values(call.v[0, :, spread]).median(-1).values.clamp_min(1e-12)
        a = self._per_row(sampled, added, "sample", self.sample, typical)
        b = self._per_row(exact, added, "exact", self.exact, typical)
        b |= {"top_key": exact.top_key[0], "top_masses": exact.top_mass[0]}
        if copies:
            a["copying"] = self._copying(sampled, added.weight)
        head = {"value_norm_median": typical}
        # Apart from the others: a product of 49 rows may round differently from run to run.
        head["value_norm_first"] = added.of_values(call.v[0, :, :1])[:, 0]
        if looks:
            head["look"] = self._look(exact)
        if text:
            head |= self._receivers(call, sampled)
            prefix = torch.arange(min(self.prefix, len(self.prompt)))
            first = self._measure(call, "prefix", prefix, plain=True, received=False)
            head["prefix_first"] = first.first[0, :, :, 0].mean(-1)
        for name, store in (("_sampled", a), ("_exact", b), ("_head", head)):
            getattr(self, name).append(store)

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

    def _per_row(
        self, s: RowStatistics, contribution: Contribution, name: str, rows: Tensor, typical: Tensor
    ) -> dict[str, Tensor]:
        """Everything that is one number per head and row of those called `name`. [H, R] each"""
        out: dict[str, Tensor] = {"top_mass": s.top_mass[0, ..., 0], "lse": s.lse[0]}
        device, visible = s.lse.device, rows + 1

        def once(what: str, make: Callable[[], Tensor]) -> Tensor:
            return self._once(f"{name} {what}", device, make)

        # The entropy of a single key is over ln(1): NaN.
        most = once("log", lambda: visible.log().masked_fill(visible < 2, torch.nan))
        out["entropy"] = s.entropy[0] / most
        for i, k in enumerate(self.watch.first):
            out[f"first_{k}"] = s.first[0, ..., i]
        for i, w in enumerate(self.watch.recent):
            out[f"recent_{w}"] = s.recent[0, ..., i]
        for i, span in enumerate(self.prompt.spans):
            out[f"span_{span}"] = s.span[0, ..., i]
        period = int(self.prompt.meta.get("period", 0))
        offset = s.offset[0].masked_fill(
            once("first period", lambda: (visible <= period + 1)[:, None]), torch.nan
        )
        for i, distances in enumerate(self._offsets):
            out[f"offset_{distances}"] = offset[..., i]
        whole = contribution.of_all(s.output[0]).clamp_min(1e-12)
        out["activity"] = contribution.of_heads(s.output[0]) / typical[:, None]
        for i, (sink, recent) in enumerate(self.watch.keep):
            lost = s.output[0] - s.kept_output[0, :, :, i]
            group = contribution.of_groups(lost) / whole
            enough = sink + recent
            short = once(f"short of {enough}", partial(torch.le, visible, enough))
            for cut, value in (
                (f"kept_{sink}_{recent}", s.kept_mass[0, ..., i]),
                (f"cut_error_{sink}_{recent}", contribution.of_heads(lost) / whole),
                (
                    f"group_cut_error_{sink}_{recent}",
                    group.repeat_interleave(self.model.geometry.group_size, 0),
                ),
            ):
                out[cut] = value.masked_fill(short, torch.nan)
        return out

    def _copying(self, s: RowStatistics, weight: Tensor) -> Tensor:
        """Share of the prompt's other tokens whose logit the head raises less than that of the token
        it looks at most. 0 ... 1, 0.5 by chance. [H, R]"""
        added = torch.einsum("hrd,hdm->hrm", s.output[0], weight.float())
        table, which = self._directions
        logits = added @ self._once("table", added.device, lambda: table).T
        looked_at = self._once("which", added.device, lambda: which)[s.top_key[0, ..., 0]]
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
        n, early = len(self.prompt), min(EARLY, len(self.sample))
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
        mass, key = share.topk(min(_RECEIVERS, n), -1)
        return {"receiver_key": key, "receiver_mass": mass}

    def _seldom(self) -> Tensor:
        """Which keys too few sampled rows see. [n]"""
        earlier = torch.searchsorted(self.sample, torch.arange(len(self.prompt)))  # rows before the key
        return _ONE_IN * (len(self.sample) - earlier) < len(self.sample)

    def collect(self) -> Found:
        """All layers put together, and checked to be finite where they must be.

        Only here, and once, does anything wait for the GPU.
        """
        sampled = stacked(self._sampled)
        bounded = sampled["lse"].isfinite().all()
        if not bool(bounded):
            for layer, lse in enumerate(sampled["lse"]):
                refuse_unbounded(self.model.name, layer, lse)
        return Found(sampled, stacked(self._exact), stacked(self._head))
