"""PH3: which heads bring memory to the answer, which bring the context, and what pruning them does.

Jin et al. 2024, "Cutting Off the Head Ends the Conflict" (arXiv 2402.18154), rebuilt from its
description: path patching gives every head an importance for the memory answer and one for the
context answer, and pruning the heads of one side favours the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from headscope.heads.conflicts import Conflicts, Settled, settle
from headscope.probes import (
    Effects,
    Estimate,
    HeadId,
    HeadscopeError,
    Positions,
    Prompt,
    Spec,
    fit,
    path_patching,
)

if TYPE_CHECKING:
    from headscope.probes import Model

Side = Literal["memory", "context"]
OTHER: dict[Side, Side] = {"memory": "context", "context": "memory"}
KS = (1, 2, 3, 5, 7, 9, 12, 15)
TOLERANCE = 0.03


@dataclass(frozen=True)
class Importance:
    """What each head contributes to either answer. L layers, H query heads.

    The paper ranks heads by the relative change of one answer's probability. Here that is the
    change of its logarithm, which does not depend on how likely the answer was; and heads are
    ranked by the difference of the two, since a head that brings both answers (the tail of the
    relation, say) is of no use to either side.

    Attributes:
        effects: of path patching; `right` is the memory answer, `wrong` the context answer.
    """

    effects: Effects

    @classmethod
    def of(cls, model: Model, prompts: Sequence[Prompt]) -> Importance:
        """By path patching from the answering row to the logits, MLPs recomputed.

        Raises:
            HeadscopeError: no prompts, or prompts without a counterfactual.
        """
        return cls(path_patching(model, prompts))

    def side(self, side: Side) -> Estimate:
        """Nats of log-probability that the side's answer loses without the head. [L, H]"""
        found = self.effects.estimate("right" if side == "memory" else "wrong")
        return Estimate(-found.value, found.se)

    def balance(self) -> Estimate:
        """Importance for memory minus that for the context: above 0 for memory heads. [L, H]"""
        found = self.effects.estimate("logit_diff")
        return Estimate(-found.value, found.se)

    def ranked(self, side: Side) -> list[HeadId]:
        """All heads, those first that serve this side more than the other."""
        return ranked(self.balance().value * (1 if side == "memory" else -1))


def ranked(scores: NDArray[np.float64]) -> list[HeadId]:
    """All heads by score [L, H], highest first; ties by position."""
    order = np.argsort(-scores, axis=None, kind="stable")
    return [HeadId(int(i) // scores.shape[1], int(i) % scores.shape[1]) for i in order]


@dataclass(frozen=True)
class Choice:
    """How many heads to prune, and what that was seen to do on the development split.

    Attributes:
        k: how many; 0 where no number kept the no-conflict accuracy.
        curve: for each number tried (0 first), how conflicts were settled.
    """

    k: int
    curve: dict[int, Settled]


def choose_k(
    model: Model,
    data: Conflicts,
    favour: Side,
    order: Sequence[HeadId],
    *,
    ks: Sequence[int] = KS,
    positions: Positions = "all",
    tolerance: float = TOLERANCE,
) -> Choice:
    """The k whose pruning favours a side most without costing what is not in conflict.

    Args:
        model: the model.
        data: the development split.
        favour: the side whose answers are wanted.
        order: the heads of the other side, first to be pruned first.
        ks: numbers to try.
        positions: the rows in which heads are pruned.
        tolerance: by how much the accuracy on agreeing contexts, and without a context, may fall,
            rounded up to whole prompts; the second counts only when memory is favoured, since what
            favours the context may well be what makes the model forget.

    Raises:
        HeadscopeError: there are no conflicts.
    """
    variants = [(prune(model, order[:k], positions),) for k in ks]
    first, *rest = settle(model, data, [(), *variants])
    curve = {0: first} | dict(zip(ks, rest, strict=True))
    kept = ("agreement", "closed") if favour == "memory" else ("agreement",)
    spare = math.ceil(tolerance * len(data))
    allowed = [
        k for k, s in curve.items()
        if all(getattr(s, name).sum() >= getattr(first, name).sum() - spare for name in kept)
    ]  # fmt: skip
    best = max(allowed, key=lambda k: (getattr(curve[k], favour).mean(), -k))
    return Choice(best, curve)


def prune(model: Model, heads: Sequence[HeadId], positions: Positions) -> Spec:
    """Zero the outputs of `heads`."""
    return fit(model, "zero", heads=list(heads), positions=positions)


@dataclass(frozen=True)
class Pruning:
    """Heads to prune in favour of one side, and how they were found.

    Attributes:
        favour: the side whose answers are wanted.
        heads: what to prune, the most important first.
        importance: on the fitting half.
        choice: of their number, on the development half.
    """

    favour: Side
    heads: tuple[HeadId, ...]
    importance: Importance
    choice: Choice


def halves(data: Conflicts, seed: int) -> tuple[Conflicts, Conflicts]:
    """The facts in two random halves, those of one subject together."""
    subjects = sorted({_subject(prompt) for prompt in data.conflict})
    drawn = np.random.default_rng(seed).permutation(len(subjects))[: len(subjects) // 2]
    first = {subjects[i] for i in drawn}
    return (
        data.where(lambda prompt: _subject(prompt) in first),
        data.where(lambda prompt: _subject(prompt) not in first),
    )


def _subject(prompt: Prompt) -> tuple[int, ...]:
    return prompt.ids[slice(*prompt.spans["subject"])]


def find_pruning(
    model: Model,
    data: Conflicts,
    favour: Side,
    *,
    ks: Sequence[int] = KS,
    positions: Positions = "all",
    tolerance: float = TOLERANCE,
    paths: int = 48,
    seed: int = 0,
    importance: Importance | None = None,
) -> Pruning:
    """PH3 from beginning to end: importance on one half of the facts, k on the other.

    Args:
        model: the model.
        data: facts that it knows.
        favour: the side whose answers are wanted.
        ks: numbers of heads to try.
        positions: the rows in which heads are pruned.
        tolerance: see `choose_k`.
        paths: at most how many prompts are path-patched.
        seed: of the halves.
        importance: of the fitting half, if it is known already.

    Raises:
        HeadscopeError: too few facts.
    """
    fitting, development = halves(data, seed)
    if not len(fitting) or not len(development):
        raise HeadscopeError(f"PH3 needs facts about at least two subjects, and has {len(data)} facts.")
    found = importance or Importance.of(model, fitting.conflict[:paths])
    order = found.ranked(OTHER[favour])
    choice = choose_k(model, development, favour, order, ks=ks, positions=positions, tolerance=tolerance)
    return Pruning(favour, tuple(order[: choice.k]), found, choice)
