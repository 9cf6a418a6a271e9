"""Multiple choice about facts made up for the occasion."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Cell
from headscope.probes.tasks._contrast import Case, contrasts
from headscope.probes.tasks._words import CITIES, PEOPLE

_LETTERS = "ABC"
_QUIZ = (
    "{p0} lives in {c0}. {p1} lives in {c1}. {p2} lives in {c2}.\n"
    "Question: Where does {asked} live?\nA. {a0}\nB. {a1}\nC. {a2}\nAnswer:"
)


@TASKS.register
class Choice:
    """Three people and where they live, the letter of one's city asked for, after a worked example.

    In the counterfactual another person is asked about. Spans: `p0` ... `p2` (people), `c0` ... `c2`
    (their cities), `asked`, `a0` ... `a2` (the options). meta: `letter`, `which`.
    """

    name = "choice"
    summary = "multiple choice about made-up facts"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        return contrasts(self.name, tokenizer, lengths, per_length, seed, _draw)


def _draw(rng: Random, cell: Cell) -> Case:
    example, letters = _quiz(rng)
    shown = rng.randrange(3)
    worked = _QUIZ.format(**example, asked=example[f"p{shown}"])
    values, options = _quiz(rng)
    letter = _LETTERS[cell.turn % 3]
    which = options.index(letter)
    other = rng.choice([i for i in range(3) if i != which])
    return Case(
        f"{worked} {letters[shown]}\n\n{_QUIZ}",
        {**values, "asked": values[f"p{which}"]},
        {"asked": values[f"p{other}"]},
        right=[f" {letter}"],
        wrong=[f" {options[i]}" for i in (other, 3 - which - other)],
        meta={"letter": letter, "which": which},
    )


def _quiz(rng: Random) -> tuple[dict[str, str], str]:
    """The fields of a quiz but for the person asked about, and the right letter of each person."""
    people, cities = rng.sample(PEOPLE, 3), rng.sample(CITIES, 3)
    order = rng.sample(range(3), 3)  # option i is the city of person order[i]
    fields = {f"p{i}": p for i, p in enumerate(people)} | {f"c{i}": c for i, c in enumerate(cities)}
    fields |= {f"a{i}": cities[person] for i, person in enumerate(order)}
    return fields, "".join(_LETTERS[order.index(i)] for i in range(3))
