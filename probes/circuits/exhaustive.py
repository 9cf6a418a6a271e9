"""Which heads a task needs, by trying every set of them: the whole truth of models with few heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headscope.probes.circuits.ablate import head_runs
from headscope.probes.circuits.faithful import check_ablation
from headscope.probes.circuits.method import Ablation, Progress
from headscope.probes.errors import Refused
from headscope.probes.geometry import Geometry, HeadId
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model

MOST = 14  # heads; 16,384 sets


@dataclass(frozen=True)
class Exhaustive:
    """What every set of a model's H heads keeps of a task, all others ablated.

    Attributes:
        geometry: of the model.
        kept: mean log-odds; set i holds head j, counted layer by layer, where bit j of i is set. nats [2^H]
    """

    geometry: Geometry
    kept: NDArray[np.float64]

    @property
    def f(self) -> NDArray[np.float64]:
        """Faithfulness of every set; 0 as if all were ablated, 1 as if nothing. [2^H]"""
        return (self.kept - self.kept[0]) / (self.kept[-1] - self.kept[0])

    def at(self, heads: Sequence[HeadId]) -> int:
        """The number of a set."""
        return sum(1 << (head.layer * self.geometry.heads + head.head) for head in set(heads))

    def minimal(self, share: float = 0.9) -> list[list[HeadId]]:
        """Sets with f of at least `share` that hold no smaller such set; fewest heads first, then best f."""
        faithful = self.f >= share
        covered = faithful.copy()  # or holding a faithful set
        number = np.arange(len(faithful))
        for bit in self._bits():
            without = number & ~bit
            covered |= covered[without]
        smaller = np.zeros_like(faithful)
        for bit in self._bits():
            smaller |= (number & bit > 0) & covered[number & ~bit]
        found = [int(i) for i in np.flatnonzero(faithful & ~smaller)]
        return [self._heads(i) for i in sorted(found, key=lambda i: (i.bit_count(), -self.f[i]))]

    def best(self, count: int) -> float:
        """The largest f of a set of so many heads."""
        sizes = np.array([i.bit_count() for i in range(len(self.kept))])
        return float(self.f[sizes == count].max())

    def shapley(self) -> NDArray[np.float64]:
        """Each head's mean gain over all orders in which heads can come alive (Shapley 1953). nats [L, H]

        They sum to what ablating everything takes away.
        """
        total, number = len(self._bits()), np.arange(len(self.kept))
        sizes = np.array([i.bit_count() for i in range(len(self.kept))])
        weight = np.array([factorial(n) * factorial(total - n - 1) / factorial(total) for n in range(total)])
        values = []
        for bit in self._bits():
            without = number[number & bit == 0]
            values.append((weight[sizes[without]] * (self.kept[without | bit] - self.kept[without])).sum())
        return np.array(values).reshape(self.geometry.layers, self.geometry.heads)

    def _bits(self) -> list[int]:
        return [1 << i for i in range(self.geometry.layers * self.geometry.heads)]

    def _heads(self, number: int) -> list[HeadId]:
        each = self.geometry.heads
        return [HeadId(i // each, i % each) for i, bit in enumerate(self._bits()) if number & bit]


def exhaustive(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    ablation: Ablation = "counterfactual",
    progress: Progress = lambda done, total: None,
) -> Exhaustive:
    """Ablate every set of heads, MLPs live: 2^H passes a prompt and nothing estimated.

    Args:
        model: of at most `MOST` heads.
        prompts: with counterfactuals.
        ablation: see `Curve`.
        progress: called with the passes done and all of them.

    Raises:
        Refused: a model with more heads.
        UnknownName: no such ablation.
        HeadscopeError: no prompts.
    """
    check_ablation(ablation)
    total = model.geometry.layers * model.geometry.heads
    if total > MOST:
        raise Refused(f"{model.name!r} has {total} heads; all sets of heads can be tried for up to {MOST}.")
    sets = (np.arange(1 << total)[:, None] >> np.arange(total)) & 1 == 1
    return Exhaustive(model.geometry, head_runs(model, prompts, sets, ablation, progress).mean(1))
