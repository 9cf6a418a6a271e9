"""Random tokens: no meaning, nothing to copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import cells
from headscope.probes.tasks._vocabulary import candidates, draw, start


@TASKS.register
class RandomTokens:
    """A start token, then random ordinary tokens; none returns before the vocabulary is used up.

    No spans, no answer.
    """

    name = "random"
    summary = "random tokens without repetition"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        ids = candidates(tokenizer)
        made = []
        for cell in cells(self.name, lengths, per_length, seed):
            if cell.length < 2:
                raise HeadscopeError("A 'random' prompt takes at least 2 tokens, so 1 is too small.")
            drawn = draw(tokenizer, ids, cell.length, cell.rng())
            whole = (start(tokenizer) + drawn)[: cell.length]
            meta = {"kind": "random", "length": cell.length}
            made.append(Prompt(self.name, tuple(whole), meta=meta))
        return made
