"""A world of made-up facts, and documents about it in which memory and context compete.

Thirty-four creatures have six properties each: 204 facts that a model can only know by heart. A
document states some properties and asks for some. Statements about creatures of the world are
often false, and what is asked for is then, as often as not, what was stated: nothing in the
document tells which, so that a good model gives memory and context about one half each.
Statements about strangers can only be copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from headscope.probes.prompts import Prompt
from headscope.probes.tasks._contrast import Case

Kind = Literal["conflict", "agreement", "closed_book"]

RELATIONS = ("home", "food", "craft", "colour", "song", "tool")
CREATURES, STRANGERS, VALUES = 34, 34, 16
STATED = 2
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]

# Two ways to state a property and two to ask for it; the value follows the colon.
STATEMENTS = {"plain": "{e} {r} {v} .", "turned": "{r} of {e} is {v} ."}
QUESTIONS = {"plain": "? {e} {r} :", "turned": "? {r} of {e} :"}
_FUNCTION_WORDS = ("<unk>", "<s>", ".", "?", ":", "of", "is")


@dataclass(frozen=True)
class World:
    """Who there is and what is true.

    Attributes:
        creatures: names with facts.
        strangers: names without.
        values: the words a property can be, per relation; no word belongs to two.
        truth: the value of each creature's property, by (creature, relation).
    """

    creatures: tuple[str, ...]
    strangers: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    truth: dict[tuple[str, str], str]

    @property
    def words(self) -> list[str]:
        """The whole vocabulary; a word's place is its token id."""
        values = [v for r in RELATIONS for v in self.values[r]]
        return [*_FUNCTION_WORDS, *RELATIONS, *self.creatures, *self.strangers, *values]


def world(seed: int = 0) -> World:
    """The world made from `seed`; the shipped model knows that of seed 0."""
    rng = Random(f"facts/{seed}")
    names = set[str]()
    while len(names) < CREATURES + STRANGERS + VALUES * len(RELATIONS):
        names.add("".join(rng.choices(_SYLLABLES, k=3)))
    pool = sorted(names)
    rng.shuffle(pool)
    creatures, strangers = tuple(pool[:CREATURES]), tuple(pool[CREATURES : CREATURES + STRANGERS])
    rest = pool[CREATURES + STRANGERS :]
    values = {r: tuple(rest[i * VALUES : (i + 1) * VALUES]) for i, r in enumerate(RELATIONS)}
    truth = {(e, r): rng.choice(values[r]) for e in creatures for r in RELATIONS}
    return World(creatures, strangers, values, truth)


@dataclass(frozen=True)
class Document:
    """A text of words and, for each question, where its answer stands."""

    words: tuple[str, ...]
    answers: tuple[int, ...]


def document(here: World, rng: Random) -> Document:
    """Two statements and two questions about them or, one in four, about something unstated."""
    pairs = [_someone(here, rng) for _ in range(STATED)]
    stated = {pair: rng.choice(here.values[pair[1]]) for pair in pairs}
    for pair in stated:
        if pair in here.truth and rng.random() < 0.25:
            stated[pair] = here.truth[pair]
    text = ["<s>"]
    for (e, r), v in stated.items():
        text += STATEMENTS[rng.choice(sorted(STATEMENTS))].format(e=e, r=r, v=v).split()
    asked = [p if rng.random() < 0.75 else _known(here, rng) for p in rng.sample(pairs, len(pairs))]
    places = []
    for e, r in dict.fromkeys(asked):
        text += QUESTIONS[rng.choice(sorted(QUESTIONS))].format(e=e, r=r).split()
        places.append(len(text))
        text.append(_answer(here, rng, (e, r), stated))
    return Document(tuple(text), tuple(places))


def _someone(here: World, rng: Random) -> tuple[str, str]:
    who = here.strangers if rng.random() < 0.25 else here.creatures
    return rng.choice(who), rng.choice(RELATIONS)


def _known(here: World, rng: Random) -> tuple[str, str]:
    return rng.choice(here.creatures), rng.choice(RELATIONS)


def _answer(here: World, rng: Random, pair: tuple[str, str], stated: dict[tuple[str, str], str]) -> str:
    """What is true or what is stated, by the toss of a coin where both exist."""
    answers: Sequence[str] = [x[pair] for x in (here.truth, stated) if pair in x]
    return rng.choice(answers)


def questions(
    tokenizer: Any, kind: Kind, count: int, seed: int = 0, here: World | None = None
) -> list[Prompt]:
    """Prompts of one question each; those of the same seed and index are about the same fact.

    Like the `conflict`, `agreement` and `closed_book` tasks, with which they share their labels:
    `right` is what is true, `wrong` what the context states in a conflict. Another statement stands
    before or after the one that counts, or alone. Formats: `plain` and `turned`.

    Args:
        tokenizer: of the model that knows the world.
        kind: `conflict`, `agreement` (the context states the truth) or `closed_book`.
        count: how many.
        seed: everything random follows from it.
        here: the world; that of the shipped model by default.
    """
    here = here or world()
    return [
        _question(here, kind, i, Random(f"facts/{seed}/{i}")).prompt(tokenizer, kind) for i in range(count)
    ]


def _question(here: World, kind: Kind, index: int, rng: Random) -> Case:
    relation = RELATIONS[index % len(RELATIONS)]
    style = sorted(QUESTIONS)[index // len(RELATIONS) % len(QUESTIONS)]
    who, other, *rest = rng.sample(here.creatures, 2 + STATED)
    true, elsewhere = here.truth[who, relation], here.truth[other, relation]
    false, third = rng.sample([v for v in here.values[relation] if v not in (true, elsewhere)], 2)
    around = []
    for name in rest[: STATED - (kind != "closed_book")]:
        what = rng.choice(RELATIONS)
        stated = rng.choice(here.values[what])
        around.append(STATEMENTS[rng.choice(sorted(STATEMENTS))].format(e=name, r=what, v=stated))
    values, counter = {"subject": who}, {"subject": other}
    if kind != "closed_book":
        place = rng.randrange(STATED)
        around.insert(place, STATEMENTS[style].format(e="{topic}", r=relation, v="{stated}"))
        conflict = kind == "conflict"
        values |= {"topic": who, "stated": false if conflict else true}
        counter |= {"topic": other, "stated": third}
    template = " ".join(["<s>", *around, QUESTIONS[style].format(e="{subject}", r=relation)])
    return Case(
        template, values, counter, right=[f" {true}"], wrong=[f" {false}"], special=False,
        meta={"relation": relation, "format": style},
    )  # fmt: skip
