"""The prompts a circuit is found on: pairs of a task, of which the model answers the clean half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headscope.probes.errors import HeadscopeError, Refused
from headscope.probes.forward import contrast_of
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.trials import trials

if TYPE_CHECKING:
    from headscope.probes.model import Model

LEAST = 0.5  # share of prompts a model must answer right for the task to be one that it does
LENGTH = 160
_SPARE = 24  # prompts tried beyond the number wanted, and as many again while they do not suffice


@dataclass(frozen=True)
class Pairs:
    """Prompts with counterfactuals.

    Attributes:
        task: their task.
        prompts: those to use.
        accuracy: share of all tried that the model answers right; None where nobody asked.
        tried: how many that share is of.
    """

    task: str
    prompts: tuple[Prompt, ...]
    accuracy: float | None = None
    tried: int = 0

    @classmethod
    def given(cls, task: str, prompts: Sequence[Prompt]) -> Pairs:
        """A user's own prompts, taken as they are.

        Raises:
            HeadscopeError: none, or one without a counterfactual.
        """
        if not prompts:
            raise HeadscopeError("There are no prompts to find a circuit on; the list is empty.")
        for prompt in prompts:
            contrast_of(prompt)
        return cls(task, tuple(prompts))

    def split(self, first: int) -> tuple[Pairs, Pairs]:
        """The first so many to learn from, the rest to test on."""
        return (
            Pairs(self.task, self.prompts[:first], self.accuracy, self.tried),
            Pairs(self.task, self.prompts[first:], self.accuracy, self.tried),
        )


def pairs(
    model: Model,
    task: str,
    count: int,
    *,
    seed: int = 0,
    least: float = LEAST,
    force: bool = False,
    length: int = LENGTH,
) -> Pairs:
    """`count` prompts of a task that the model answers right.

    Args:
        model: the model.
        task: a task of pairs.
        count: how many.
        seed: seed of the prompts.
        least: the share of the first prompts tried that the model must answer right.
        force: go on below that share, with prompts answered wrong where right ones do not suffice.
        length: longest prompt, in tokens.

    Raises:
        UnknownName: no such task.
        HeadscopeError: a task without counterfactuals, or a model without a tokenizer.
        Refused: the model cannot do the task, or it shows pictures to a model of text alone.
    """
    tries = count + _SPARE
    while True:
        made = TASKS[task].prompts(
            model.reader(TASKS[task]), lengths=[length], per_length=tries, seed=seed, haystack=None
        )
        contrast_of(made[0])
        right = trials(model, made).right
        share = float(right.mean())
        if share < least and not force:
            raise Refused(
                f"{model.name!r} answers {share:.0%} of {tries} {task!r} prompts right, less than the "
                f"{least:.0%} asked for, so there is no circuit to find; --force (force=True) goes on anyway."
            )
        known = [prompt for prompt, ok in zip(made, right, strict=True) if ok]
        if len(known) >= count or force:
            missed = [prompt for prompt, ok in zip(made, right, strict=True) if not ok]
            return Pairs(task, tuple([*known, *missed][:count]), share, tries)
        tries = int(count / share) + tries
