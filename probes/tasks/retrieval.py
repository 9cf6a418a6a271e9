"""Needle retrieval in pairs: a short text hides a fact, or the same fact with another value."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

from headscope.probes.haystack import Haystack, insert
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Cell
from headscope.probes.tasks._contrast import Case, contrasts
from headscope.probes.tasks._draft import Draft, render
from headscope.probes.tasks.needle import WORDINGS, Fact
from headscope.probes.tokens import Unlabelled, encode

_PLACE = "\ue000"  # stands for the value while the rest of the text is protected


@TASKS.register
class Retrieval:
    """The needles of `needle` in little text: where they are hidden, a question, the answer begun.

    In the counterfactual the sentence holds another value of as many tokens. Span: `value`. meta:
    `needle` names the wording, `depth` where the sentence stands. After Wu et al. 2024 (arXiv
    2404.15574).
    """

    name = "retrieval"
    summary = "a made-up fact in a short text, to be told from another"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        draw = partial(_draw, tokenizer, Haystack.of(tokenizer, haystack))
        return contrasts(self.name, tokenizer, lengths, per_length, seed, draw)


def _draw(tokenizer: Any, hay: Haystack, rng: Random, cell: Cell) -> Case:
    wording = sorted(WORDINGS)[cell.turn % len(WORDINGS)]
    one, two = (Random(rng.random()) for _ in range(2))
    fact, other = WORDINGS[wording](one), WORDINGS[wording](two)
    if fact.value == other.value:
        raise Unlabelled("Twice the same value.")
    text, special = _filled(tokenizer, fact, hay, rng, cell)
    template = text.replace("{", "{{").replace("}", "}}").replace(_PLACE, "{value}")
    return Case(
        template,
        {"value": fact.value},
        {"value": other.value},
        right=[f" {fact.value}"],
        wrong=[f" {other.value}"],
        special=special,
        meta={"needle": wording, "depth": cell.depth},
    )


def _filled(tokenizer: Any, fact: Fact, hay: Haystack, rng: Random, cell: Cell) -> tuple[str, bool]:
    """The longest text around the fact that, with its answer, keeps to the cell's length."""
    text, special = _text(tokenizer, fact, "", 0.0)
    room = cell.length - _length(tokenizer, text, fact, special)
    begin = hay.choose(max(room, 1), 1, rng)[0]
    while room > 0:
        longer, _ = _text(tokenizer, fact, hay.window(begin, room), cell.depth)
        over = _length(tokenizer, longer, fact, special) - cell.length
        if over <= 0:
            return longer, special
        room -= over
    return text, special


def _length(tokenizer: Any, text: str, fact: Fact, special: bool) -> int:
    """Tokens of the prompt with its answer."""
    return len(encode(tokenizer, f"{text.replace(_PLACE, fact.value)} {fact.value}", special=special).ids)


def _text(tokenizer: Any, fact: Fact, filler: str, depth: float) -> tuple[str, bool]:
    """The prompt up to its answer, `_PLACE` for the value in it; whether special tokens are to be added."""
    context, _ = insert(filler, [(fact.sentence.format(v=_PLACE), depth)])
    return render(tokenizer, Draft(context, fact.question, fact.lead.rstrip(), "", "", {}))
