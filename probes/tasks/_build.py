"""What the tasks with a question share: which prompts to make, and filling each to its length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.haystack import Haystack
from headscope.probes.prompts import Prompt
from headscope.probes.tasks._draft import Draft, Text
from headscope.probes.tokens import Unlabelled

_TRIES = 8  # values tried before a tokenizer is said to spell them differently in two places
_ROUNDS = 8  # corrections of the amount of filler
_SHORT = 2  # tokens a prompt may be short of its length without another correction
_LOOSE = 32  # tokens a prompt may be short of its length at all
MIN_CONTEXT = 16  # tokens of filler below which a length makes no sense


@dataclass(frozen=True)
class Cell:
    """One prompt to make: its length, its depth, and `turn`, which walks through the wordings."""

    task: str
    length: int
    index: int
    turn: int
    depth: float
    seed: str

    def rng(self) -> Random:
        return Random(self.seed)


def cells(task: str, lengths: Sequence[int], per_length: int, seed: int) -> Iterator[Cell]:
    """The prompts to make, in order. Each has its own generator, so none depends on the others."""
    if per_length < 1 or any(n < 1 for n in lengths):
        raise HeadscopeError(f"lengths {list(lengths)} and per_length {per_length} must be positive numbers.")
    for length in lengths:
        turn = Random(f"{task}/{seed}/{length}").randrange(1 << 16)
        for i in range(per_length):
            depth = round(i / (per_length - 1), 4) if per_length > 1 else 0.5
            yield Cell(task, length, i, turn + i, depth, f"{task}/{seed}/{length}/{i}")


Cut = Callable[[int], str]
"""Gives filler of about that many tokens."""

Supply = Callable[[int], Cut]
"""Told how many tokens of filler will be wanted, finds some or raises."""

Attempt = Callable[[Random], tuple[Supply, Callable[[str], Draft]]]
"""One try at a prompt: its filler, and how to write it around the filler."""


def windows(hay: Haystack, rng: Random, tokens: int) -> Cut:
    """Filler from one place in a haystack that leaves room for `tokens` tokens."""
    return partial(hay.window, hay.choose(tokens, 1, rng)[0])


def build(tokenizer: Any, cell: Cell, attempt: Attempt) -> Prompt:
    """Make a prompt, trying other values while the tokenizer spells one differently in two places.

    Raises:
        HeadscopeError: no value could be labelled exactly; see also `_fill`.
    """
    reason: Unlabelled | None = None
    for i in range(_TRIES):
        try:
            return _label(tokenizer, cell, *attempt(Random(f"{cell.seed}/{i}")))
        except Unlabelled as error:
            reason = error
    raise HeadscopeError(
        f"No {cell.task!r} prompt of {cell.length} tokens could be labelled with this tokenizer "
        f"in {_TRIES} tries: {reason}"
    )


def _label(tokenizer: Any, cell: Cell, supply: Supply, draft: Callable[[str], Draft]) -> Prompt:
    """One try; again with offsets worked out from the tokens, in case the tokenizer's are wrong."""
    meta = {"length": cell.length, "depth": cell.depth}
    try:
        return _fill(tokenizer, cell, supply, draft).prompt(tokenizer, cell.task, meta)
    except Unlabelled as error:
        if not getattr(tokenizer, "is_fast", False):
            raise
        try:
            text = _fill(tokenizer, cell, supply, draft, slowly=True)
            return text.prompt(tokenizer, cell.task, meta)
        except HeadscopeError:
            raise error from None


def _fill(
    tokenizer: Any, cell: Cell, supply: Supply, draft: Callable[[str], Draft], slowly: bool = False
) -> Text:
    """The longest text that is no longer than the cell's length.

    Raises:
        HeadscopeError: the length is too small, or the filler runs out.
    """
    fixed = len(Text.of(tokenizer, draft(""), slowly))
    if fixed + MIN_CONTEXT > cell.length:
        raise HeadscopeError(
            f"A {cell.task!r} prompt takes at least {fixed + MIN_CONTEXT} tokens with this "
            f"tokenizer, so a length of {cell.length} is too small."
        )
    budget = cell.length - fixed
    cut, best = supply(budget), None
    for _ in range(_ROUNDS):
        text = Text.of(tokenizer, draft(cut(budget)), slowly)
        spare = cell.length - len(text)
        if spare >= 0:
            if best and len(text) <= len(best):
                break
            best = text
        if 0 <= spare <= _SHORT or budget == 0:
            break
        # A token of filler costs about one token, unless the chat template rewrites the text.
        cost = max(0.5, (len(text) - fixed) / budget)
        budget = max(0, budget + math.floor(spare / cost))
    if best is None or cell.length - len(best) > _LOOSE:
        raise HeadscopeError(
            f"No {cell.task!r} prompt could be filled to {cell.length} tokens with this tokenizer."
        )
    return best
