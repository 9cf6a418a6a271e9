"""Bigram text in which frequent tokens call for a copy of the token before them (Guo et al. 2024)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.haystack import Haystack
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import cells
from headscope.probes.tasks._vocabulary import start
from headscope.probes.tokens import encode

TRIGGERS = 3
_LEAST = 8  # distinct tokens, without which there is no language to speak of


@dataclass(frozen=True)
class Language:
    """Which token of a text follows which, and which are so frequent that they call for a copy.

    Attributes:
        ids: the text's tokens without special ones; its end is followed by its beginning.
        triggers: how many of the most frequent tokens are triggers.
    """

    ids: tuple[int, ...]
    triggers: int = TRIGGERS

    @classmethod
    def of(cls, tokenizer: Any, text: str | None = None) -> Language:
        """That of `text` (the default haystack without one) under a tokenizer.

        Raises:
            HeadscopeError: the text has hardly any distinct tokens.
        """
        special = set(tokenizer.all_special_ids)
        ids = encode(tokenizer, Haystack.of(tokenizer, text).text).ids
        found = cls(tuple(i for i in ids if i not in special))
        if len(set(found.ids)) < _LEAST:
            raise HeadscopeError(
                f"The text has {len(set(found.ids))} distinct tokens, but bigram text needs {_LEAST}."
            )
        return found

    @cached_property
    def trigger_ids(self) -> frozenset[int]:
        """The most frequent tokens; ties go to the lower id."""
        counts = Counter(self.ids)
        return frozenset(sorted(counts, key=lambda i: (-counts[i], i))[: self.triggers])

    @cached_property
    def followers(self) -> dict[int, list[int]]:
        """What follows every token, each follower as often as it does."""
        found: dict[int, list[int]] = {}
        for token, after in zip(self.ids, self.ids[1:] + self.ids[:1], strict=True):
            found.setdefault(token, []).append(after)
        return found

    @cached_property
    def _quiet(self) -> dict[int, list[int]]:
        """The same without triggers."""
        return {t: [f for f in after if f not in self.trigger_ids] for t, after in self.followers.items()}

    @cached_property
    def _first(self) -> list[int]:
        return [i for i in self.ids if i not in self.trigger_ids]

    def backcopy(self, count: int, rng: Random) -> list[int]:
        """`count` tokens: after a trigger the token before it again, after others as in the text."""
        made = [rng.choice(self._first)]
        while len(made) < count:
            copies = made[-1] in self.trigger_ids
            made.append(made[-2] if copies else rng.choice(self.followers[made[-1]]))
        return made

    def bigram(self, count: int, rng: Random) -> list[int]:
        """`count` tokens as in the text, but never a trigger."""
        made = [rng.choice(self._first)]
        while len(made) < count:
            made.append(rng.choice(self._quiet[made[-1]] or self._first))
        return made


@TASKS.register
class Backcopy:
    """A start token and bigram text of the haystack, in which the three most frequent tokens are
    triggers: the token after one is the token before it. No spans, no answer.

    The Bigram-Backcopy task of Guo et al. 2024 (arXiv 2410.13835), on tokens instead of characters.
    """

    name = "backcopy"
    summary = "bigram text in which frequent tokens call for a copy of the token before"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        language = Language.of(tokenizer, haystack)
        return _made(self.name, tokenizer, language.backcopy, lengths, per_length, seed)


@TASKS.register
class Bigram:
    """The same without any trigger: text on which a head that only copies has nothing to do."""

    name = "bigram"
    summary = "the bigram text of the backcopy task, without what calls for a copy"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        language = Language.of(tokenizer, haystack)
        return _made(self.name, tokenizer, language.bigram, lengths, per_length, seed)


def _made(
    task: str,
    tokenizer: Any,
    write: Callable[[int, Random], list[int]],
    lengths: Sequence[int],
    per_length: int,
    seed: int,
) -> list[Prompt]:
    made = []
    for cell in cells(task, lengths, per_length, seed):
        first = start(tokenizer)[: cell.length - 1]
        ids = [*first, *write(cell.length - len(first), cell.rng())]
        made.append(Prompt(task, tuple(ids), meta={"kind": task, "length": cell.length}))
    return made
