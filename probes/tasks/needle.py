"""Needle in a haystack: one fact hidden in a natural text, asked for at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from headscope.probes.haystack import Haystack, insert
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Supply, build, cells, windows
from headscope.probes.tasks._draft import Draft, Mark
from headscope.probes.tasks._words import (
    CITIES,
    FIRST_NAMES,
    SHIPS,
    SURNAMES,
    VERBS,
    description,
    digits,
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A sentence to hide and how it is asked for. `{v}` is the value, with the same word before it
    and, in the answer, the same character after it as in the sentence."""

    sentence: str
    question: str
    lead: str
    value: str


def _archive(rng: Random) -> Fact:
    city = rng.choice(CITIES)
    return Fact(
        f"To enter the archive in {city} you need the access code, and it is {{v}}.",
        f"What is the access code of the archive in {city}?",
        f"The access code of the archive in {city} is ",
        digits(rng, 7),
    )


def _miller(rng: Random) -> Fact:
    return Fact(
        "Before he left the village, the miller hid his gold under the {v}.",
        "Where did the miller hide his gold?",
        "The miller hid his gold under the ",
        description(rng),
    )


def _gift(rng: Random) -> Fact:
    name = rng.choice(FIRST_NAMES)
    return Fact(
        f"On the last day of school, {name} was given the {{v}}.",
        f"What was {name} given on the last day of school?",
        f"{name} was given the ",
        description(rng),
    )


def _rain(rng: Random) -> Fact:
    city = rng.choice(CITIES)
    return Fact(
        f"On a rainy day, the best thing to do in {city} is to {{v}}.",
        f"What is the best thing to do in {city} when it rains?",
        f"The best thing to do in {city} is to ",
        f"{rng.choice(VERBS)} {description(rng, nouns=1)}s",
    )


def _captain(rng: Random) -> Fact:
    ship = rng.choice(SHIPS)
    return Fact(
        f"When the ship {ship} left the harbour, her captain was {{v}}.",
        f"Who was the captain of the ship {ship}?",
        f"The captain of the ship {ship} was ",
        f"{rng.choice(FIRST_NAMES)} {' '.join(rng.sample(SURNAMES, 2))}",
    )


def _mayor(rng: Random) -> Fact:
    city = rng.choice(CITIES)
    return Fact(
        f"The mayor of {city} once admitted that her favourite animal is the {{v}}.",
        f"What is the favourite animal of the mayor of {city}?",
        f"The favourite animal of the mayor of {city} is the ",
        description(rng),
    )


WORDINGS: dict[str, Callable[[Random], Fact]] = {
    "archive": _archive, "captain": _captain, "gift": _gift,
    "mayor": _mayor, "miller": _miller, "rain": _rain,
}  # fmt: skip


@TASKS.register
class Needle:
    """Six facts with made-up values, hidden at depths spread evenly from 0 to 1.

    Spans: `needle` (the sentence), `value` (the words in it that the answer repeats), `question`,
    `haystack` (the whole text, needle included). The answer is exactly the value.
    meta: `needle` names the wording; `depth` is the depth asked for, `placed` the share of the
    text before the sentence boundary nearest to it. After Wu et al. 2024 (arXiv 2404.15574).
    """

    name = "needle"
    summary = "one made-up fact hidden in a long natural text"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        hay = Haystack.of(tokenizer, haystack)
        names = sorted(WORDINGS)
        return [
            build(tokenizer, cell, partial(_attempt, hay, names[cell.turn % len(names)], cell.depth))
            for cell in cells(self.name, lengths, per_length, seed)
        ]


def _attempt(hay: Haystack, wording: str, depth: float, rng: Random) -> tuple[Supply, Callable[[str], Draft]]:
    return partial(windows, hay, rng), partial(_draft, WORDINGS[wording](rng), wording, depth)


def _draft(fact: Fact, wording: str, depth: float, text: str) -> Draft:
    sentence = fact.sentence.format(v=fact.value)
    context, (placed,) = insert(text, [(sentence, depth)])
    return Draft(
        context=context,
        question=fact.question,
        lead=fact.lead,
        value=fact.value,
        tail=".",
        marks={
            "needle": Mark(sentence, sentence),
            "value": Mark(sentence, fact.value),
            "question": Mark(fact.question, fact.question),
        },
        meta={"needle": wording, "placed": placed},
    )
