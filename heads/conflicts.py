"""Knowledge conflicts that a model can have, and how it settles them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headscope.heads import intervals
from headscope.probes import TASKS, HeadscopeError, Prompt, Spec, trials, trials_under

if TYPE_CHECKING:
    from headscope.probes import Model

_LENGTH = 256  # tokens, more than any of these prompts has


@dataclass(frozen=True)
class Conflicts:
    """Facts that a model knows, each asked three times.

    Attributes:
        conflict: the context contradicts the fact.
        agreement: the context states it.
        closed: there is no context.
    """

    conflict: tuple[Prompt, ...]
    agreement: tuple[Prompt, ...]
    closed: tuple[Prompt, ...]

    @classmethod
    def of(
        cls, model: Model, conflict: Sequence[Prompt], agreement: Sequence[Prompt], closed: Sequence[Prompt]
    ) -> Conflicts:
        """Those facts that the model gets right without a context.

        Raises:
            HeadscopeError: it gets none right.
        """
        known = np.flatnonzero(trials(model, closed).right).tolist()
        if not known:
            raise HeadscopeError(
                f"{model.name!r} answers none of {len(closed)} closed-book questions right, so nothing "
                "can be in conflict with what it knows."
            )
        return cls(*(tuple(prompts[i] for i in known) for prompts in (conflict, agreement, closed)))

    @classmethod
    def known(cls, model: Model, count: int, seed: int = 0) -> Conflicts:
        """Of `count` facts of the `conflict` task, those that the model knows.

        Raises:
            HeadscopeError: the model has no tokenizer, or knows none.
        """
        conflict, agreement, closed = (
            TASKS[task].prompts(
                model.reader(TASKS[task]), lengths=[_LENGTH], per_length=count, seed=seed, haystack=None
            )
            for task in ("conflict", "agreement", "closed_book")
        )
        return cls.of(model, conflict, agreement, closed)

    def __len__(self) -> int:
        return len(self.conflict)

    def where(self, wanted: Callable[[Prompt], bool]) -> Conflicts:
        """The facts whose conflict prompt is wanted."""
        kept = [i for i, prompt in enumerate(self.conflict) if wanted(prompt)]
        return Conflicts(
            *(tuple(prompts[i] for i in kept) for prompts in (self.conflict, self.agreement, self.closed))
        )

    def labels(self, key: str) -> list[str]:
        """One of `relation` or `format` of each fact."""
        return [str(prompt.meta[key]) for prompt in self.conflict]


@dataclass(frozen=True)
class Settled:
    """How P conflicts were settled, prompt by prompt.

    Attributes:
        memory: the answer begins with what is true. [P]
        context: it begins with what the context states. [P]
        agreement: right where the context states the truth. [P]
        closed: right without a context. [P]
    """

    memory: NDArray[np.bool_]
    context: NDArray[np.bool_]
    agreement: NDArray[np.bool_]
    closed: NDArray[np.bool_]

    @property
    def other(self) -> NDArray[np.bool_]:
        """The answer is neither. [P]"""
        return ~(self.memory | self.context)

    def rates(self) -> dict[str, float]:
        """All five rates in 0 ... 1, each with its exact 95% interval as `_low` and `_high`."""
        found = dict[str, float]()
        for name in ("memory", "context", "other", "agreement", "closed"):
            hits = getattr(self, name)
            low, high = intervals.share(hits)
            found |= {name: float(hits.mean()), f"{name}_low": low, f"{name}_high": high}
        return found


def settle(model: Model, data: Conflicts, variants: Sequence[Sequence[Spec]]) -> list[Settled]:
    """How the model settles the conflicts under each variant; `()` is the untouched model.

    Raises:
        HeadscopeError: there are no conflicts.
    """
    asked = [
        trials_under(model, prompts, variants) for prompts in (data.conflict, data.agreement, data.closed)
    ]
    return [
        Settled(conflict.right, conflict.wrong, agreement.right, closed.right)
        for conflict, agreement, closed in zip(*asked, strict=True)
    ]
