"""Knowledge conflict: a statement contradicts what the model knows by heart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Cell
from headscope.probes.tasks._contrast import Case, contrasts
from headscope.probes.tasks._draft import Draft, render
from headscope.probes.tasks._facts import RELATIONS
from headscope.probes.tokens import Unlabelled

_SHOTS = 3


@dataclass(frozen=True)
class Fact:
    """What a prompt is about, and what its counterfactual is about.

    Attributes:
        relation: name of the relation.
        subject: whom it is about.
        true: its value.
        false: another value of the relation, which a context states.
        other: another subject, of as many tokens.
        third: what the counterfactual states instead of `false`.
        instead: what it states instead of `true`.
        shots: three other subjects with none of these values.
    """

    relation: str
    subject: str
    true: str
    false: str
    other: str
    third: str
    instead: str
    shots: tuple[str, ...]


class _Knowledge:
    """What the three tasks share: the i-th prompts of all three are about the same fact.

    Formats: `passage` (a passage, a question, the beginning of the answer), `chat` (the same as a
    user's turn, where the tokenizer has a chat template), `note` (a note and what follows from it)
    and `list` (true statements about others first, which leans to memory).
    Spans: `subject` (whom the answer is about); with a context also `topic` (the same, stated) and
    `stated` (the value stated). `right` is what is true, the memory answer; `wrong` another value of
    the same relation, the context answer of `conflict`. The counterfactual is about another subject
    and states another value. meta: `relation`, `format`, `right`, `wrong`.
    """

    name = ""
    states: Callable[[Fact], tuple[str, str] | None]

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        facts = _facts()
        Random(f"conflict/{seed}").shuffle(facts)
        draw = partial(_draw, tokenizer, facts, type(self).states)
        return contrasts(self.name, tokenizer, lengths, per_length, seed, draw, stream="conflict")


def _contradicted(fact: Fact) -> tuple[str, str] | None:
    return fact.false, fact.third


def _agreed(fact: Fact) -> tuple[str, str] | None:
    return fact.true, fact.instead


def _unstated(fact: Fact) -> tuple[str, str] | None:
    return None


@TASKS.register
class Conflict(_Knowledge):
    __doc__ = f"A context states a falsehood about something well known.\n\n    {_Knowledge.__doc__}"
    name = "conflict"
    summary = "well-known facts that the context contradicts"
    states = staticmethod(_contradicted)


@TASKS.register
class Agreement(_Knowledge):
    __doc__ = f"A context states what is true anyway.\n\n    {_Knowledge.__doc__}"
    name = "agreement"
    summary = "well-known facts that the context states rightly"
    states = staticmethod(_agreed)


@TASKS.register
class ClosedBook(_Knowledge):
    __doc__ = f"No context: what is asked for can only be known.\n\n    {_Knowledge.__doc__}"
    name = "closed_book"
    summary = "well-known facts without any context"
    states = staticmethod(_unstated)


def _facts() -> list[tuple[str, str]]:
    return [(name, subject) for name, r in RELATIONS.items() for subject in sorted(r.facts)]


def _draw(
    tokenizer: Any,
    facts: list[tuple[str, str]],
    states: Callable[[Fact], tuple[str, str] | None],
    rng: Random,
    cell: Cell,
) -> Case:
    """The case of one task, if those of the two others could be labelled as well."""
    fact = _fact(tokenizer, facts, cell.index, rng)
    style = sorted(_FORMATS)[(cell.index + cell.index // len(facts)) % len(_FORMATS)]
    others = {_contradicted, _agreed, _unstated} - {states}
    for other in others:
        _case(tokenizer, fact, style, other(fact)).prompt(tokenizer, "conflict")
    return _case(tokenizer, fact, style, states(fact))


def _fact(tokenizer: Any, facts: list[tuple[str, str]], index: int, rng: Random) -> Fact:
    """The fact at `index`, or the next of which a counterfactual of the same length exists."""
    for step in range(len(facts)):
        name, subject = facts[(index + step) % len(facts)]
        known = RELATIONS[name].facts
        true = known[subject]
        values = sorted(set(known.values()) - {true})
        false = rng.choice(values)
        subjects = [s for s in _as_long(tokenizer, subject, sorted(known)) if known[s] not in (true, false)]
        other = rng.choice(subjects) if subjects else subject
        thirds = [v for v in _as_long(tokenizer, false, values) if v != known[other]]
        instead = _as_long(tokenizer, true, values)
        if not (thirds and subjects and instead):
            continue
        third = rng.choice(thirds)
        shots = [s for s in sorted(known) if known[s] not in (true, false) and s != other]
        return Fact(name, subject, true, false, other, third, rng.choice(instead),
                    tuple(rng.sample(shots, _SHOTS)))  # fmt: skip
    raise Unlabelled("No two subjects of a 'conflict' relation have the same number of tokens.")


def _as_long(tokenizer: Any, word: str, pool: list[str]) -> list[str]:
    """Those of `pool` that are other words with as many tokens."""
    count = {w: len(tokenizer(f" {w}", add_special_tokens=False)["input_ids"]) for w in {word, *pool}}
    return [w for w in pool if w != word and count[w] == count[word]]


def _case(tokenizer: Any, fact: Fact, style: str, stated: tuple[str, str] | None) -> Case:
    relation = RELATIONS[fact.relation]
    context = relation.statement.format(s="{topic}") + " {stated}." if stated else ""
    template, special = _FORMATS[style](tokenizer, fact, context)
    asked = {"asked": fact.subject} if "{asked}" in template else {}
    values, counter = {"subject": fact.subject, **asked}, dict.fromkeys(("subject", *asked), fact.other)
    if stated:
        values |= {"topic": fact.subject, "stated": stated[0]}
        counter |= {"topic": fact.other, "stated": stated[1]}
    return Case(
        template, values, counter, right=[f" {fact.true}"], wrong=[f" {fact.false}"], special=special,
        meta={"relation": fact.relation, "format": style},
    )  # fmt: skip


def _passage(tokenizer: Any, fact: Fact, context: str) -> tuple[str, bool]:
    begin = f"Context: {context}\n" if context else ""
    return f"{begin}Question: {_question(fact)}\nAnswer: {_lead(fact)}", True


def _chat(tokenizer: Any, fact: Fact, context: str) -> tuple[str, bool]:
    said = context or "Please answer."
    return render(tokenizer, Draft(said, _question(fact), _lead(fact), "", "", {}))


def _note(tokenizer: Any, fact: Fact, context: str) -> tuple[str, bool]:
    lead = _lead(fact)
    begin = f"Note: {context}\nAccording to the note," if context else "As everybody knows,"
    return f"{begin} {lead[0].lower()}{lead[1:]}", True


def _list(tokenizer: Any, fact: Fact, context: str) -> tuple[str, bool]:
    relation = RELATIONS[fact.relation]
    lines = [f"{relation.statement.format(s=s)} {relation.facts[s]}." for s in fact.shots]
    return "\n".join([*lines, *([context] if context else []), _lead(fact)]), True


def _question(fact: Fact) -> str:
    return RELATIONS[fact.relation].question.format(s="{asked}")


def _lead(fact: Fact) -> str:
    return RELATIONS[fact.relation].statement.format(s="{subject}")


_FORMATS: dict[str, Callable[[Any, Fact, str], tuple[str, bool]]] = {
    "chat": _chat, "list": _list, "note": _note, "passage": _passage,
}  # fmt: skip
