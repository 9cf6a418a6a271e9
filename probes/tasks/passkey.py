"""Several passkeys in one text, one of them asked for: finding is not enough, it must be the right one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

from headscope.probes.haystack import Haystack, insert
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Supply, build, cells, windows
from headscope.probes.tasks._draft import Draft, Mark
from headscope.probes.tasks._words import FIRST_NAMES, SURNAMES, digits

_KEYS = 4
_GROUPS = 3  # of four digits each
_SENTENCE = "Remember this: the passkey of {owner} is {key}."
_QUESTION = "What is the passkey of {owner}?"
_LEAD = "The passkey of {owner} is "


@TASKS.register
class Passkey:
    """Four passkeys of three four-digit groups, each with an owner, spread evenly over the text.

    The prompts of one length ask for each key in turn. Spans: `needle` (the sentence of the key
    asked for), `value` (the key in it), `distractor_0` ... `distractor_2` (the other keys in the
    order of the text), `question`, `haystack`. meta: `asked` counts the keys from 0, `depth` and
    `placed` belong to the key asked for. After the multi-key passkeys of DuoAttention
    (arXiv 2410.10819), asked for by name.
    """

    name = "passkey"
    summary = "several passkeys with owners, one of them asked for"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        hay = Haystack.of(tokenizer, haystack)
        return [
            build(tokenizer, cell, partial(_attempt, hay, cell.index % _KEYS))
            for cell in cells(self.name, lengths, per_length, seed)
        ]


def _attempt(hay: Haystack, asked: int, rng: Random) -> tuple[Supply, Callable[[str], Draft]]:
    names = zip(rng.sample(FIRST_NAMES, _KEYS), rng.sample(SURNAMES, _KEYS), strict=True)
    owners = [" ".join(name) for name in names]
    keys = [" ".join(digits(rng, 4) for _ in range(_GROUPS)) for _ in owners]
    return partial(windows, hay, rng), partial(_draft, owners, keys, asked)


def _draft(owners: list[str], keys: list[str], asked: int, text: str) -> Draft:
    sentences = [_SENTENCE.format(owner=o, key=k) for o, k in zip(owners, keys, strict=True)]
    depths = [(i + 0.5) / len(keys) for i in range(len(keys))]
    context, placed = insert(text, list(zip(sentences, depths, strict=True)))
    marks = [Mark(s, k) for s, k in zip(sentences, keys, strict=True)]
    question = _QUESTION.format(owner=owners[asked])
    others = marks[:asked] + marks[asked + 1 :]
    return Draft(
        context=context,
        question=question,
        lead=_LEAD.format(owner=owners[asked]),
        value=keys[asked],
        tail=".",
        marks={
            "needle": Mark(sentences[asked], sentences[asked]),
            "value": marks[asked],
            "question": Mark(question, question),
        }
        | {f"distractor_{i}": mark for i, mark in enumerate(others)},
        meta={"asked": asked, "depth": depths[asked], "placed": placed[asked]},
    )
