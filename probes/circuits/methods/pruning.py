"""Attribution patching over and over: the heads that matter least are ablated, the rest scored again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, PositiveInt

from headscope.probes.circuits.circuit import Cost
from headscope.probes.circuits.method import (
    METHODS,
    Found,
    MethodSettings,
    Progress,
    TowardsSettings,
    head_nodes,
)
from headscope.probes.prompts import Prompt
from headscope.probes.screening import attribution_patching

if TYPE_CHECKING:
    from headscope.probes.model import Model


class PruningSettings(TowardsSettings):
    """Attributes:
    first: what is pruned first: heads of least `worth`, which work against the task, or of least `size`.
    keep: share of the live heads that stay alive in each round.
    steps: gradients to average in each round, see `attribution-ig`; one misses what is saturated.
    """

    first: Literal["worth", "size"] = "worth"
    keep: float = Field(0.7, gt=0, lt=1)
    steps: PositiveInt = 3


@METHODS.register
class Pruning:
    """Heads in the order in which they are pruned, each round scored with all pruned heads ablated.

    What a head is worth depends on what is left of the others. Scores of one pass are those of the whole
    model; here they are those of the circuit itself, down to its last head.
    """

    name = "pruning"
    summary = "attribution patching in rounds, each with the heads of least worth ablated"
    source = "gradients as in Syed et al. 2023 (arXiv 2310.10348); rounds are headscope's own"
    baseline = False
    settings = PruningSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        """Every round as `attribution-ig`."""
        assert isinstance(settings, PruningSettings)
        rounds = len(_sizes(model.geometry.layers * model.geometry.heads, settings.keep)) - 1
        once = 1 + (settings.towards == "mean") + settings.steps
        return Cost(forward=rounds * once, backward=rounds * settings.steps)

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        assert isinstance(settings, PruningSettings)
        shape = (model.geometry.layers, model.geometry.heads)
        sizes = _sizes(shape[0] * shape[1], settings.keep)
        live, left = np.ones(shape, bool), np.full(shape, float(len(sizes)))
        clean, counterfactual = 0.0, 0.0
        for done, (before, after) in enumerate(pairwise(sizes), 1):
            found = attribution_patching(
                model, prompts, towards=settings.towards, steps=settings.steps, live=live
            )
            if done == 1:
                clean, counterfactual = float(found.clean[0].mean()), float(found.counterfactual[0].mean())
            worth = -found.estimate().value
            rank = np.abs(worth) if settings.first == "size" else worth
            order = np.argsort(np.where(live, rank, np.inf), axis=None, kind="stable")[: before - after]
            # Within a round, too, the last to go has the largest score.
            left.flat[order] = done + np.arange(len(order)) / len(order)
            live.flat[order] = False
            progress(done, len(sizes) - 1)
        return Found(
            head_nodes(left), unit="rounds", clean=clean, counterfactual=counterfactual,
            note="A score is the round in which a head was pruned, and its place in that round.",
        )  # fmt: skip


def _sizes(heads: int, keep: float) -> list[int]:
    """How many heads are alive before each round and after the last: from all down to one."""
    found = [heads]
    while found[-1] > 1:
        found.append(max(1, min(int(found[-1] * keep), found[-1] - 1)))
    return found
