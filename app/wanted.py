"""An intervention as it is asked for: what `headscope intervene` takes, and the command line for it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headscope.app.methodoptions import checked, chooses_heads, options_of
from headscope.probes import INTERVENTIONS, TASKS, HeadId, HeadscopeError, Source, fit, unknown

if TYPE_CHECKING:
    from headscope.probes import Geometry, Model, Positions, Prompt, Spec

POSITIONS: tuple[Positions, ...] = ("all", "prompt", "generated")
_FEWEST, _SHORTEST = 2, 16  # prompts to learn from, and their tokens: what the command line takes


@dataclass(frozen=True)
class Learning:
    """Prompts to learn from: `count` of `task`, of at most `length` tokens."""

    task: str = "needle"
    length: int = 512
    count: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Wanted:
    """An intervention to fit.

    Attributes:
        method: a name in `INTERVENTIONS`.
        heads: what to act on; None lets the method choose.
        strength: what is kept of the original; None is the method's own.
        positions: the rows it acts on.
        settings: the method's own numbers, those that differ from its defaults.
        learning: the prompts it learns from where it chooses heads.
        run, role, top: the run, its column and the number that `heads` were taken by; none where they
            were named by hand.
    """

    method: str
    heads: tuple[HeadId, ...] | None
    strength: float | None = None
    positions: Positions = "all"
    settings: tuple[tuple[str, Any], ...] = ()
    learning: Learning = Learning()
    run: str = ""
    role: str = ""
    top: int = 0

    def check(self, geometry: Geometry) -> None:
        """Refuse what `fit` would refuse, as far as that can be told without the model.

        Raises:
            UnknownName: no such method, task, or kind of positions.
            HeadscopeError: settings out of range, no heads, heads the model lacks, too little to learn from.
        """
        method = INTERVENTIONS[self.method]
        if self.positions not in POSITIONS:
            raise unknown("kind of positions", self.positions, POSITIONS)
        checked(method, dict(self.settings))
        if self.heads is None:
            self._check_learning(method.name, chooses_heads(method))
            return
        if not self.heads:
            raise HeadscopeError(f"{self.method!r} has no heads to act on; name some, such as L0H0.")
        for head in self.heads:
            if not geometry.has(head):
                raise HeadscopeError(
                    f"heads has {head}, but the model has {geometry.layers} layers of {geometry.heads} heads."
                )
        twice = [head for head in self.heads if self.heads.count(head) > 1]
        if twice:
            raise HeadscopeError(f"heads names {twice[0]} twice; once is enough.")

    def _check_learning(self, method: str, chooses: bool) -> None:
        if not chooses:
            raise HeadscopeError(f"{method!r} does not choose heads itself; name some, such as L0H0.")
        TASKS[self.learning.task]
        for name, value, least in (
            ("prompts to learn from", self.learning.count, _FEWEST),
            ("length", self.learning.length, _SHORTEST), ("seed", self.learning.seed, 0),
        ):  # fmt: skip
            if value < least:
                raise HeadscopeError(f"{name} is {value}; it has to be at least {least}.")

    def command(self, model: str) -> str:
        """The command line that fits the same and evaluates it with its controls."""
        words = ["headscope", "intervene", self.method, model, *self.options()]
        return shlex.join([*words, "--out", f"{self.method}.json"])

    def options(self) -> list[str]:
        """The options of `headscope intervene` that say what is not usual."""
        usual, learning, words = INTERVENTIONS[self.method], Learning(), list[str]()
        if self.run:
            words += ["--run", self.run, "--role", self.role, "--top", str(self.top)]
        else:
            words += [part for head in self.heads or () for part in ("--head", str(head))]
        if self.strength not in (None, usual.strength):
            words += ["--strength", f"{self.strength:g}"]
        words += ["--positions", self.positions] if self.positions != "all" else []
        defaults = {option.name: option.default for option in options_of(usual)}
        for name, value in self.settings:
            if value != defaults.get(name):
                said = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
                words += ["--set", f"{name}={said}"]
        for option, mine, its in (
            ("--task", self.learning.task, learning.task),
            ("--length", self.learning.length, learning.length),
            ("--learn", self.learning.count, learning.count),
            ("--seed", self.learning.seed, learning.seed),
        ):
            words += [option, str(mine)] if mine != its else []
        return words

    def fit(self, model: Model) -> Spec:
        """The spec that the command line would write."""
        source = Source(note="named by hand") if self.heads is not None else Source()
        if self.run:
            source = Source(headmap=self.run, column=self.role)
        return fit(
            model, self.method, heads=self.heads, prompts=() if self.heads else self._prompts(model),
            strength=self.strength, positions=self.positions, seed=self.learning.seed, source=source,
            **dict(self.settings),
        )  # fmt: skip

    def _prompts(self, model: Model) -> list[Prompt]:
        task, wanted = TASKS[self.learning.task], self.learning
        return task.prompts(
            model.reader(task),
            lengths=[wanted.length],
            per_length=wanted.count,
            seed=wanted.seed,
            haystack=None,
        )
