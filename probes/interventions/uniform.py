"""Masking as the retrieval-head paper's code does it: a head that no longer chooses where to look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.probes.geometry import HeadId
from headscope.probes.intervene import INTERVENTIONS, Learned, Settings
from headscope.probes.interventions._blend import blend, named
from headscope.probes.passes import Rows
from headscope.probes.prompts import Prompt
from headscope.probes.seam import AttentionCall
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model

_ELEMENTS = 1 << 24  # of one block of visibility


class _Evened:
    """Uniform attention over the visible keys."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def attention(self, call: AttentionCall, rows: Rows) -> Tensor:
        heads = [self.spec.heads[i].head for i in self.spec.of_layer(call.layer)]
        even = torch.stack([_even(call, rows, b, heads) for b in range(call.q.shape[0])])
        return blend(call.output, even, self.spec, call.layer, rows.acts)


def _even(call: AttentionCall, rows: Rows, b: int, heads: Sequence[int]) -> Tensor:
    """What `heads` put out with all scores zero; zeros in rows that are not to be changed. [T, heads, D]

    A query that is zero scores every key zero. A learned sink stays in the denominator.
    """
    group = call.q.shape[1] // call.k.shape[1]
    values = call.v[b, [h // group for h in heads]].double()
    prefix = torch.nn.functional.pad(values.cumsum(1), (0, 0, 1, 0))  # [heads, N + 1, D]
    extra = call.sinks[heads].double().exp() if call.sinks is not None else values.new_zeros(len(heads))
    even = call.output.new_zeros(call.q.shape[2], len(heads), call.v.shape[-1])
    keys = call.k.shape[2]
    for at in rows.acts[b].nonzero()[:, 0].split(max(1, _ELEMENTS // keys)):
        lo, hi = call.visible.ranges(at + call.visible.query_offset, keys, b)
        total = prefix[:, hi] - prefix[:, lo]
        even[at] = (total / ((hi - lo)[:, None] + extra[:, None, None])).transpose(0, 1).to(even.dtype)
    return even


@INTERVENTIONS.register
class Uniform:
    """A head looks at all keys that it can see alike: its query is zero.

    The masking experiment of Wu et al. 2024 (arXiv 2404.15574), whose published code does this,
    not what "masking" suggests, and on the rows that write the answer only: positions
    `generated`.
    """

    name = "uniform"
    summary = "let heads look at all keys alike"
    strength = 0.0
    settings: type[Settings] = Settings
    stateful = False

    def learn(
        self,
        model: Model,
        heads: tuple[HeadId, ...] | None,
        prompts: Sequence[Prompt],
        settings: Settings,
        seed: int,
    ) -> Learned:
        return Learned(named(heads, self.name))

    def edit(self, model: Model, spec: Spec, settings: Settings) -> _Evened:
        return _Evened(spec)
