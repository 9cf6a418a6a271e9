"""The scan's observer: row statistics taken down to a few numbers per head, in one prefill."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.kernels import RowStatistics
from headscope.probes.errors import Refused
from headscope.probes.prompts import Prompt
from headscope.probes.recipe import Watch
from headscope.probes.rows import RowObserver
from headscope.probes.seam import AttentionCall
from headscope.probes.verify import refuse_unbounded

if TYPE_CHECKING:
    from headscope.probes.model import Model

EARLY = 16  # rows at the start that are always in the sample: they see so few keys that they stand out
_RECEIVERS = 8
_VALUES = 48  # keys whose values tell how large an ordinary one is
_MIN_SEEN = 16  # sampled rows that must see a key before its received mass is trusted


@dataclass(frozen=True)
class Found:
    """Arrays over all layers: see `Observation`."""

    sampled: dict[str, NDArray[np.float32]]
    exact: dict[str, NDArray[Any]]
    head: dict[str, NDArray[Any]]


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
        weight = self.model.output_weight(call.layer).float()
        copies = "echo" in self.prompt.offsets
        sampled = self._measure(call, self.sample, 1 if copies else 0)
        exact = self._measure(call, self.exact, self.watch.top)
        # Evenly spaced, not drawn: the yardstick must not move with the sample of rows.
        spread = torch.linspace(0, len(self.prompt) - 1, min(_VALUES, len(self.prompt))).long()
        typical = _value_norms(call, weight, spread).median(-1).values.clamp_min(1e-12)
        a = self._per_row(sampled, weight, self.sample, typical)
        b = self._per_row(exact, weight, self.exact, typical)
        b |= {"top_key": exact.top_key[0], "top_masses": exact.top_mass[0]}
        if copies:
            a["copying"] = self._copying(sampled, weight)
        head = {"value_norm_median": typical}
        head["value_norm_first"] = _value_norms(call, weight, torch.zeros(1, dtype=torch.long))[:, 0]
        if self.prompt.answer is None:  # text, in which sinks are looked for
            head |= self._receivers(call, sampled)
            first = self._measure(call, torch.arange(min(self.prefix, len(self.prompt))), 1, plain=True)
            head["prefix_first"] = first.first[0, :, :, 0].mean(-1)
        for name, store in (("_sampled", a), ("_exact", b), ("_head", head)):
            getattr(self, name).append(store)

    def _measure(self, call: AttentionCall, rows: Tensor, top: int, plain: bool = False) -> RowStatistics:
        text = self.prompt.answer is None  # only there is received mass read
        watch = self.watch.model_copy(update={"top": top, "received": text})  # top 0: the mass alone
        if plain:
            watch = Watch(first=(1,), recent=(), keep=(), top=1, chunk_elements=watch.chunk_elements)
        observer = RowObserver(
            rows[None], watch,
            spans={n: torch.tensor([s]) for n, s in self.prompt.spans.items()} if not plain else {},
            offsets=self._offsets if not plain else {},
        )  # fmt: skip
        ((_, _, statistics),) = observer.measure(call)
        return statistics

    def _per_row(self, s: RowStatistics, weight: Tensor, rows: Tensor, typical: Tensor) -> dict[str, Tensor]:
        """Everything that is one number per head and row. [H, R] each"""
        out: dict[str, Tensor] = {"top_mass": s.top_mass[0, ..., 0], "lse": s.lse[0]}
        visible = (rows + 1).to(s.lse.device)
        out["entropy"] = (s.entropy[0] / visible.clamp_min(2).log()).masked_fill(visible < 2, torch.nan)
        for i, k in enumerate(self.watch.first):
            out[f"first_{k}"] = s.first[0, ..., i]
        for i, w in enumerate(self.watch.recent):
            out[f"recent_{w}"] = s.recent[0, ..., i]
        for i, name in enumerate(self.prompt.spans):
            out[f"span_{name}"] = s.span[0, ..., i]
        first_period = visible <= int(self.prompt.meta.get("period", 0)) + 1
        for i, name in enumerate(self._offsets):
            out[f"offset_{name}"] = s.offset[0, ..., i].masked_fill(first_period, torch.nan)
        added = torch.einsum("hrd,hdm->hrm", s.output[0], weight)
        whole = added.sum(0).norm(dim=-1).clamp_min(1e-12)
        out["activity"] = added.norm(dim=-1) / typical[:, None]
        for i, (sink, recent) in enumerate(self.watch.keep):
            lost = torch.einsum("hrd,hdm->hrm", s.output[0] - s.kept_output[0, :, :, i], weight)
            group = lost.view(self.model.geometry.kv_heads, -1, *lost.shape[1:]).sum(1)
            short = visible <= sink + recent
            for name, value in (
                (f"kept_{sink}_{recent}", s.kept_mass[0, ..., i]),
                (f"cut_error_{sink}_{recent}", lost.norm(dim=-1) / whole),
                (
                    f"group_cut_error_{sink}_{recent}",
                    (group.norm(dim=-1) / whole).repeat_interleave(self.model.geometry.group_size, 0),
                ),
            ):
                out[name] = value.masked_fill(short, torch.nan)
        return out

    def _copying(self, s: RowStatistics, weight: Tensor) -> Tensor:
        """Share of the prompt's other tokens whose logit the head raises less than that of the token
        it looks at most. 0 ... 1, 0.5 by chance. [H, R]"""
        added = torch.einsum("hrd,hdm->hrm", s.output[0], weight)
        table, which = self._directions
        logits = added @ table.to(added.device).T
        looked_at = which.to(added.device)[s.top_key[0, ..., 0]]
        below = logits < logits.gather(-1, looked_at[..., None])
        return below.sum(-1) / max(1, table.shape[0] - 1)

    def _receivers(self, call: AttentionCall, s: RowStatistics) -> dict[str, Tensor]:
        """The keys with the most received mass per row that sees them. [H, 8]

        The first rows are all in the sample, the later ones stand for more than themselves.
        """
        n, early = len(self.prompt), min(EARLY, len(self.sample))
        pad = torch.nn.functional.pad
        total = pad(s.received[0], (0, n - s.received.shape[-1]))
        first = self._measure(call, self.sample[:early], 0, plain=True).received[0]
        first = pad(first, (0, n - first.shape[-1]))
        weight = (n - early) / max(1, len(self.sample) - early)
        share = (first + weight * (total - first)) / torch.arange(n, 0, -1, device=total.device)
        seen = (self.sample[:, None] >= torch.arange(n)).sum(0).to(total.device)
        share = share.masked_fill(seen < min(_MIN_SEEN, len(self.sample)), 0.0)
        mass, key = share.topk(min(_RECEIVERS, n), -1)
        return {"receiver_key": key, "receiver_mass": mass}

    def collect(self) -> Found:
        """All layers stacked on the CPU, and checked to be finite where they must be.

        Only here do results leave the GPU: a copy per layer would make the prefill wait.
        """
        for layer, seen in enumerate(self._sampled):
            refuse_unbounded(self.model.name, layer, seen["lse"])
        return Found(_stack(self._sampled), _stack(self._exact), _stack(self._head))


def _value_norms(call: AttentionCall, weight: Tensor, at: Tensor) -> Tensor:
    """Norm of what the value of each key would add to the residual stream. [H, len(at)]"""
    values = call.v[0, :, at.to(call.v.device)].float()
    group = math.ceil(weight.shape[0] / values.shape[0])
    return torch.einsum("hrd,hdm->hrm", values.repeat_interleave(group, 0), weight).norm(dim=-1)


def _stack(layers: list[dict[str, Tensor]]) -> dict[str, NDArray[Any]]:
    return {name: torch.stack([layer[name].cpu() for layer in layers]).numpy() for name in layers[0]}
