"""Several passkeys in one text, all of them asked for: every key has to be carried to the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

from headscope.probes.haystack import Haystack, insert
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Supply, build, cells, windows
from headscope.probes.tasks._draft import Draft, Mark
from headscope.probes.tasks._words import FIRST_NAMES, NOUNS, SURNAMES

_KEYS, _WORDS = 10, 32  # in all, and of one key: what DuoAttention trains on
_SHARE = 128  # tokens of a prompt that one more key, and one more word of each, take
_SENTENCE = "Remember this: the passkey of {owner} is {key}."
_QUESTION = "What is the passkey of each owner?"
_LEAD = "The passkey of {owner} is "


@TASKS.register
class Recital:
    """Ten passkeys of 32 words at random depths, told again one after the other in another order.

    Prompts below 4,096 tokens hold fewer and shorter ones: one key, and one word in each, for every
    128 tokens. The answer proper is the last key told; what the tokens between `question` and the
    end have to be copied from lies all over the text. Spans: `needle` and `value` of the last key,
    `distractor_<i>` (the other keys in the order of the text), `question`, `haystack`. meta: `keys`,
    `depth` and `placed` of the last key. After the training prompts of DuoAttention
    (arXiv 2410.10819).
    """

    name = "recital"
    summary = "many passkeys with owners, all of them told again"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        hay = Haystack.of(tokenizer, haystack)
        return [
            build(tokenizer, cell, partial(_attempt, hay, cell.length))
            for cell in cells(self.name, lengths, per_length, seed)
        ]


def _attempt(hay: Haystack, length: int, rng: Random) -> tuple[Supply, Callable[[str], Draft]]:
    count, size = (min(most, max(2, length // _SHARE)) for most in (_KEYS, _WORDS))
    owners = [f"{first} {rng.choice(SURNAMES)}" for first in rng.sample(FIRST_NAMES, count)]
    keys = dict[str, None]()
    while len(keys) < count:
        keys[" ".join(rng.choices(NOUNS, k=size))] = None
    depths = [d / 1000 for d in sorted(rng.sample(range(50, 951), count))]
    order = rng.sample(range(count), count)
    return partial(windows, hay, rng), partial(_draft, owners, list(keys), depths, order)


def _draft(owners: list[str], keys: list[str], depths: list[float], order: list[int], text: str) -> Draft:
    sentences = [_SENTENCE.format(owner=o, key=k) for o, k in zip(owners, keys, strict=True)]
    context, placed = insert(text, list(zip(sentences, depths, strict=True)))
    *before, last = order
    told = "".join(f"{_LEAD.format(owner=owners[i])}{keys[i]}.\n" for i in before)
    marks = [Mark(s, k) for s, k in zip(sentences, keys, strict=True)]
    return Draft(
        context=context,
        question=_QUESTION,
        lead=told + _LEAD.format(owner=owners[last]),
        value=keys[last],
        tail=".",
        marks={
            "needle": Mark(sentences[last], sentences[last]),
            "value": marks[last],
            "question": Mark(_QUESTION, _QUESTION),
        }
        | {f"distractor_{i}": mark for i, mark in enumerate(marks[:last] + marks[last + 1 :])},
        meta={"keys": len(keys), "depth": depths[last], "placed": placed[last]},
    )
