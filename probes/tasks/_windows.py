"""Prompts that are a stretch of some text and ask nothing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.haystack import Haystack
from headscope.probes.prompts import Prompt
from headscope.probes.tasks._build import cells
from headscope.probes.tokens import encode

_MARGIN = 64  # tokens read beyond the window, which itself ends between two words
_SHORT = 4  # tokens that a window may lack at the very end of the text


def stretches(
    task: str, tokenizer: Any, hay: Haystack, lengths: Sequence[int], per_length: int, seed: int
) -> list[Prompt]:
    """`per_length` different windows of `hay` for each length, spread over the text.

    They begin where a sentence (or a definition) begins, with the tokens that the tokenizer
    itself puts first, and are cut to exactly the length.

    Raises:
        HeadscopeError: the text is too short.
    """
    made, places = [], dict[int, list[int]]()
    for cell in cells(task, lengths, per_length, seed):
        if cell.length not in places:
            rng = Random(f"{task}/{seed}/{cell.length}/starts")
            places[cell.length] = hay.choose(cell.length, per_length, rng)
        begin = places[cell.length][cell.index]
        text = hay.window(begin, cell.length + _MARGIN)
        ids = encode(tokenizer, text, special=True).ids[: cell.length]
        if len(ids) < cell.length - _SHORT:
            raise HeadscopeError(
                f"The text of a {task!r} prompt gave {len(ids)} tokens where {cell.length} were expected."
            )
        meta = {"kind": task, "length": cell.length, "begin": begin}
        made.append(Prompt(task, ids, meta=meta))
    return made
