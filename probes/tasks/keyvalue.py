"""A long object of keys and values, one value asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from random import Random
from typing import Any

from headscope.probes.haystack import LINE, Haystack, default_text
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Cut, Supply, build, cells
from headscope.probes.tasks._draft import Draft, Mark
from headscope.probes.tokens import encode

_DISTRACTORS = 4  # of the other values are labelled
_LINE_TOKENS = 5  # no line has fewer, in any tokenizer


@TASKS.register
class KeyValue:
    """A JSON object from English words to five-digit numbers, as long as the prompt allows.

    The pair asked for moves evenly from the first line to the last. Spans: `needle` (the pair),
    `value` (its number), `distractor_0` ... `distractor_3` (other numbers, evenly spread),
    `question`, `haystack` (the object). A prompt is short of its length by less than one line.
    meta: `pairs`. After Liu et al. 2023 (arXiv 2307.03172), with words for their UUIDs; the
    haystack is not used.
    """

    name = "keyvalue"
    summary = "a long JSON object, the value of one key asked for"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        return [
            build(tokenizer, cell, partial(_attempt, tokenizer, cell.depth))
            for cell in cells(self.name, lengths, per_length, seed)
        ]


@lru_cache(maxsize=1)
def _words() -> list[str]:
    """English words of 4 to 9 letters, out of the default haystack."""
    return sorted(set(re.findall(r"\b[a-z]{4,9}\b", default_text())))


def _pairs(rng: Random, count: int) -> list[str]:
    """`count` lines with different keys: single words first, then pairs of words."""
    words = _words()
    keys = dict.fromkeys(rng.sample(words, min(count, len(words))))
    while len(keys) < count:
        keys[" ".join(rng.sample(words, 2))] = None
    return [f'"{key}": "{rng.randrange(10_000, 100_000)}"' for key in keys]


def _attempt(tokenizer: Any, depth: float, rng: Random) -> tuple[Supply, Callable[[str], Draft]]:
    (asked,) = _pairs(rng, 1)
    return partial(_lines, tokenizer, asked, rng), partial(_draft, asked, depth)


def _lines(tokenizer: Any, asked: str, rng: Random, tokens: int) -> Cut:
    taken = set(asked.split(": "))  # neither its key nor its value may come again
    others = [p for p in _pairs(rng, tokens // _LINE_TOKENS + 2) if taken.isdisjoint(p.split(": "))]
    text = ",\n".join(others)
    hay = Haystack(encode(tokenizer, text), text, LINE)
    return lambda n: hay.window(0, n).rpartition("\n")[0]  # the last line may be cut: drop it


def _draft(asked: str, depth: float, text: str) -> Draft:
    lines = [line.rstrip(",") for line in text.splitlines()]
    others = _spread(lines)
    at = round(depth * len(lines))
    lines.insert(at, asked)
    key, value = (part.strip('"') for part in asked.split(": "))
    question = f'What is the value of "{key}" in this JSON data?'
    marks = {
        "needle": Mark(asked, asked),
        "value": Mark(asked, value),
        "question": Mark(question, question),
    }
    for i, line in enumerate(others):
        marks[f"distractor_{i}"] = Mark(line, line.split('"')[3])
    return Draft(
        context="{\n" + ",\n".join(lines) + "\n}",
        question=question,
        lead=f'"{key}": "',
        value=value,
        tail='"',
        marks=marks,
        meta={"pairs": len(lines), "placed": round(at / max(1, len(lines) - 1), 4)},
    )


def _spread(lines: list[str]) -> list[str]:
    """A few of the lines, evenly spread."""
    count = min(_DISTRACTORS, len(lines))
    return [lines[(2 * i + 1) * len(lines) // (2 * count)] for i in range(count)]
