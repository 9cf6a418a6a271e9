"""What the tasks with a question share: rendering, labelling, and filling a prompt to its length."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.haystack import Haystack
from headscope.probes.prompts import Prompt
from headscope.probes.tokens import Encoded, Unlabelled, encode, spells

_TRIES = 8  # values tried before a tokenizer is said to spell them differently in two places
_ROUNDS = 8  # corrections of the amount of filler
_SHORT = 2  # tokens a prompt may be short of its length without another correction
_LOOSE = 32  # tokens a prompt may be short of its length at all
MIN_CONTEXT = 16  # tokens of filler below which a length makes no sense


@dataclass(frozen=True)
class Mark:
    """A labelled place: `part` of the text `carrier`, which stands once in the prompt."""

    carrier: str
    part: str


@dataclass(frozen=True)
class Draft:
    """A prompt in words, before it is tokenised.

    Attributes:
        context: the filler with everything that is hidden in it.
        question: what is asked, after the context.
        lead: the beginning of the answer, given to the model; the value follows.
        value: the text to be copied. It has the same neighbours in `lead + value + tail` and in
            the place marked `value`, so that it gets the same tokens.
        tail: what follows the value; tokenised with it and then dropped.
        marks: the labelled places; `value` is among them.
        meta: goes into the prompt's.
    """

    context: str
    question: str
    lead: str
    value: str
    tail: str
    marks: Mapping[str, Mark]
    meta: Mapping[str, Any] = field(default_factory=dict)


def cells(task: str, lengths: Sequence[int], per_length: int, seed: int) -> Iterator[Cell]:
    """The prompts to make, in order. Each has its own generator, so none depends on the others."""
    if per_length < 1 or any(n < 1 for n in lengths):
        raise HeadscopeError(f"lengths {list(lengths)} and per_length {per_length} must be positive numbers.")
    for length in lengths:
        turn = Random(f"{task}/{seed}/{length}").randrange(1 << 16)
        for i in range(per_length):
            depth = round(i / (per_length - 1), 4) if per_length > 1 else 0.5
            yield Cell(task, length, i, turn + i, depth, f"{task}/{seed}/{length}/{i}")


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
    try:
        return _fill(tokenizer, cell, supply, draft).prompt(tokenizer, cell)
    except Unlabelled as error:
        if not getattr(tokenizer, "is_fast", False):
            raise
        try:
            return _fill(tokenizer, cell, supply, draft, slowly=True).prompt(tokenizer, cell)
        except HeadscopeError:
            raise error from None


def _fill(
    tokenizer: Any, cell: Cell, supply: Supply, draft: Callable[[str], Draft], slowly: bool = False
) -> _Text:
    """The longest text that is no longer than the cell's length.

    Raises:
        HeadscopeError: the length is too small, or the filler runs out.
    """
    fixed = len(_Text.of(tokenizer, draft(""), slowly))
    if fixed + MIN_CONTEXT > cell.length:
        raise HeadscopeError(
            f"A {cell.task!r} prompt takes at least {fixed + MIN_CONTEXT} tokens with this "
            f"tokenizer, so a length of {cell.length} is too small."
        )
    budget = cell.length - fixed
    cut, best = supply(budget), None
    for _ in range(_ROUNDS):
        text = _Text.of(tokenizer, draft(cut(budget)), slowly)
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


@dataclass(frozen=True)
class _Text:
    """A draft as the model will read it: characters, tokens, and where the answer stands."""

    draft: Draft
    text: str
    encoded: Encoded
    answer: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: Any, draft: Draft, slowly: bool = False) -> _Text:
        text, special = render(tokenizer, draft)
        end = len(text) - len(draft.tail)
        whole = encode(tokenizer, text, special=special, slowly=slowly)
        answer = whole.span(end - len(draft.value), end)
        cut = Encoded(whole.ids[: answer[1]], whole.offsets[: answer[1]])
        return cls(draft, text, cut, answer)

    def __len__(self) -> int:
        return len(self.encoded.ids)

    def prompt(self, tokenizer: Any, cell: Cell) -> Prompt:
        """Label everything, or raise Unlabelled."""
        ids, before = self.encoded.ids, self.text[: self._answer_begin]
        spans = {name: self._find(tokenizer, mark, before) for name, mark in self.draft.marks.items()}
        spans["haystack"] = self.encoded.span(*_place(before, self.draft.context))
        source = range(*spans["value"])
        if [ids[i] for i in source] != list(ids[slice(*self.answer)]):
            raise Unlabelled(f"{self.draft.value!r} has other tokens in the answer than in the text.")
        if not spells(tokenizer, ids[slice(*self.answer)], self.draft.value):
            raise Unlabelled(f"The tokens of the answer do not spell {self.draft.value!r}.")
        meta = {"kind": cell.task, "length": cell.length, "depth": cell.depth} | dict(self.draft.meta)
        return Prompt(cell.task, ids, spans, self.answer, tuple(source), meta=meta)

    @property
    def _answer_begin(self) -> int:
        d = self.draft
        return len(self.text) - len(d.lead + d.value + d.tail)

    def _find(self, tokenizer: Any, mark: Mark, before: str) -> tuple[int, int]:
        begin, end = _place(before, mark.carrier)
        a, b = _place(before[begin:end], mark.part)
        span = self.encoded.span(begin + a, begin + b)
        if not spells(tokenizer, self.encoded.ids[slice(*span)], mark.part):
            raise Unlabelled(f"The tokens found for {mark.part!r} do not spell it.")
        return span


def _place(text: str, piece: str) -> tuple[int, int]:
    """Where `piece` stands in `text`, blanks aside; it must stand there exactly once."""
    found = list(re.finditer(re.escape(piece), text))
    if not found:  # a chat template may have changed the blanks
        found = list(re.finditer(r"\s+".join(map(re.escape, piece.split())), text))
    if len(found) != 1:
        times = "stands more than once in" if found else "is missing from"
        raise Unlabelled(f"{piece[:80]!r} {times} the prompt.")
    return found[0].span()


def render(tokenizer: Any, draft: Draft) -> tuple[str, bool]:
    """The prompt as text up to the answer's end, and whether the tokenizer adds its own tokens.

    With a chat template the context and question are the user's turn and the answer the
    assistant's; without one a plain form with "Question:" and "Answer:" is used.
    """
    answer = draft.lead + draft.value + draft.tail
    if not getattr(tokenizer, "chat_template", None):
        return f"{draft.context}\n\nQuestion: {draft.question}\nAnswer: {answer}", True
    user = {"role": "user", "content": f"{draft.context}\n\n{draft.question}"}
    try:
        text = str(
            tokenizer.apply_chat_template(
                [user, {"role": "assistant", "content": answer}],
                tokenize=False, continue_final_message=True,
            )
        )  # fmt: skip
        if text.endswith(answer):
            return text, False
    except Exception:  # templates raise what they like; a bare opened turn is the other way in
        pass
    try:
        opened = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    except Exception as error:
        raise HeadscopeError(f"The tokenizer's chat template refuses a question: {error}") from error
    return f"{opened}{answer}", False
