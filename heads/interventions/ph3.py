"""PH3 as an intervention: prune the heads of one side of a knowledge conflict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from headscope.heads.conflicts import Conflicts
from headscope.heads.ph3 import KS, OTHER, TOLERANCE, Importance, find_pruning
from headscope.probes import (
    INTERVENTIONS,
    HeadId,
    HeadscopeError,
    Learned,
    OutputEdit,
    Positions,
    Prompt,
    Settings,
)

if TYPE_CHECKING:
    from headscope.probes import Model, Spec


class Side(Settings):
    """What PH3 has to know.

    Attributes:
        favour: the side whose answers are wanted; the other side's heads are pruned.
        k: how many heads; 0 chooses the number on a development split.
        tried: the rows in which heads are pruned while the number is chosen; give `fit` the same
            `positions`. Importance is that of the answering row, so `generated` is what it fits.
        tolerance: by how much the accuracy without conflict may fall while k is chosen.
        facts: how many facts to ask, where no prompts are given.
    """

    favour: Literal["memory", "context"] = "context"
    k: int = Field(default=0, ge=0)
    tried: Positions = "generated"
    tolerance: float = Field(default=TOLERANCE, ge=0)
    facts: int = Field(default=160, ge=2)


@INTERVENTIONS.register
class Ph3:
    """Heads that carry the memory answer, or the context answer, add nothing.

    Learns from prompts of the tasks `conflict`, `agreement` and `closed_book`, as many of each and
    in the same order; prompts of `conflict` alone stand for as many facts of the seed's own draw.
    Jin et al. 2024 (arXiv 2402.18154).
    """

    name = "ph3"
    summary = "settle conflicts between memory and context by pruning one side's heads"
    strength = 0.0
    settings: type[Settings] = Side
    stateful = False

    def learn(
        self,
        model: Model,
        heads: tuple[HeadId, ...] | None,
        prompts: Sequence[Prompt],
        settings: Settings,
        seed: int,
    ) -> Learned:
        assert isinstance(settings, Side)
        if heads:
            return Learned(heads, settings)
        data = _facts(model, prompts, settings, seed)
        if settings.k:
            order = Importance.of(model, data.conflict).ranked(OTHER[settings.favour])
            chosen, note = tuple(order[: settings.k]), f"the number {settings.k} was given"
        else:
            found = find_pruning(
                model, data, settings.favour, ks=KS, positions=settings.tried,
                tolerance=settings.tolerance, seed=seed,
            )  # fmt: skip
            chosen, note = found.heads, f"k chosen among {KS} on the development half"
        if not chosen:
            raise HeadscopeError(
                f"No number of heads favours {settings.favour} without costing more than "
                f"{settings.tolerance:.0%} where there is no conflict; give k or a larger tolerance."
            )
        return Learned(chosen, settings, task="conflict", prompts=len(data), note=note)

    def edit(self, model: Model, spec: Spec, settings: Settings) -> OutputEdit:
        return INTERVENTIONS["zero"].edit(model, spec, INTERVENTIONS["zero"].settings())  # type: ignore[return-value]


def _facts(model: Model, prompts: Sequence[Prompt], settings: Side, seed: int) -> Conflicts:
    """The facts to learn from, those that the model knows."""
    tasks = ("conflict", "agreement", "closed_book")
    sorted_by_task = [[p for p in prompts if p.task == task] for task in tasks]
    if prompts and not sorted_by_task[0]:
        raise HeadscopeError(f"'ph3' learns from 'conflict' prompts, not from {prompts[0].task!r} prompts.")
    if len({len(found) for found in sorted_by_task}) == 1 and prompts:
        return Conflicts.of(model, *sorted_by_task)
    return Conflicts.known(model, len(sorted_by_task[0]) or settings.facts, seed)
