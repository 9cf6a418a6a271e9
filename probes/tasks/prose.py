"""Windows of natural text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headscope.probes.haystack import Haystack
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._windows import stretches


@TASKS.register
class Prose:
    """Different windows of the haystack, each from the beginning of a sentence. No spans, no answer.

    meta: `begin` is the character of the cleaned haystack at which the window begins.
    """

    name = "prose"
    summary = "windows of natural text"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        hay = Haystack.of(tokenizer, haystack)
        return stretches(self.name, tokenizer, hay, lengths, per_length, seed)
