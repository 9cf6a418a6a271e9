"""What stands in for what is ablated: the counterfactual's value, the mean over prompts, or zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.probes.circuits.anatomy import Block
from headscope.probes.circuits.stream import written
from headscope.probes.forward import Batch
from headscope.probes.inside import recording

if TYPE_CHECKING:
    from headscope.probes.model import Model


@dataclass
class Means:
    """Means over the rows of all prompts; the first row, where attention rests, has its own.

    Rows are the second last but one axis: values are [..., B, T, d].
    """

    first: list[Tensor] = field(default_factory=list)
    others: list[Tensor] = field(default_factory=list)
    prompts: int = 0
    rows: int = 0

    def add(self, values: Sequence[Tensor], batch: Batch) -> None:
        """Another batch, an entry for each layer."""
        inside = torch.arange(1, batch.ids.shape[1], device=batch.ids.device) <= batch.rows[:, None]
        first = [v[..., 0, :].sum(-2) for v in values]
        others = [(v[..., 1:, :] * inside[..., None].to(v)).sum((-3, -2)) for v in values]
        if self.prompts:
            first = [a + b for a, b in zip(self.first, first, strict=True)]
            others = [a + b for a, b in zip(self.others, others, strict=True)]
        self.first, self.others = first, others
        self.prompts += len(batch.prompts)
        self.rows += int(inside.sum())

    def like(self, values: Tensor, layer: int) -> Tensor:
        """The means in the place of these values of a layer."""
        made = (self.others[layer] / max(self.rows, 1))[..., None, None, :].expand_as(values).clone()
        made[..., 0, :] = (self.first[layer] / self.prompts)[..., None, :]
        return made


def instead(twin: Tensor, ablation: str, means: Means | None, layer: int = 0) -> Tensor:
    """What replaces a layer's values, shaped like the counterfactual's."""
    if means is not None:
        return means.like(twin, layer)
    return torch.zeros_like(twin) if ablation == "zero" else twin


@torch.no_grad()
def replacements(model: Model, todo: Sequence[Batch], ablation: str) -> Iterator[list[Tensor]]:
    """For each batch, what replaces its head outputs. [H, B, T, D] a layer"""
    means = head_means(model, todo) if ablation == "mean" else None
    for batch in todo:
        twin = _outputs(model, batch.twin(model))
        yield [instead(z, ablation, means, layer) for layer, z in enumerate(twin)]


@torch.no_grad()
def head_means(model: Model, todo: Sequence[Batch]) -> Means:
    """Means of every layer's head outputs in the counterfactuals."""
    means = Means()
    for batch in todo:
        means.add(_outputs(model, batch.twin(model)), batch)
    return means


@torch.no_grad()
def part_means(model: Model, blocks: Sequence[Block], todo: Sequence[Batch]) -> Means:
    """Means of what each writer adds in the counterfactuals."""
    means = Means()
    for batch in todo:
        means.add([written(model, blocks, batch.twin(model), batch).parts], batch)
    return means


def _outputs(model: Model, batch: Batch) -> list[Tensor]:
    """Head outputs. [H, B, T, D] a layer"""
    with recording(model) as record:
        batch.logits(model)
    return [z.permute(2, 0, 1, 3) for z in record.z]
