"""What the tasks for causal tests share: a text, its counterfactual, and both as aligned tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from string import Formatter
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.prompts import Contrast, Prompt
from headscope.probes.tasks._build import Cell, cells
from headscope.probes.tokens import Unlabelled, encode

_TRIES = 512  # values tried before a tokenizer is said to spell no two of them alike
_PATIENCE = 16  # of them before the next index is taken, where a task walks through a list


@dataclass(frozen=True)
class Case:
    """A prompt in words and what would change its answer.

    Attributes:
        template: the text up to the answer, with named fields `{subject}`; each becomes a span.
        values: what the fields hold.
        counter: what those hold that differ in the counterfactual.
        right: answers that count as right, leading blank included; the first is teacher-forced.
        wrong: answers that count as wrong, the counterfactual's own first.
        special: whether the tokenizer is to add its own tokens (not after a chat template).
        meta: goes into the prompt's.
    """

    template: str
    values: Mapping[str, str]
    counter: Mapping[str, str]
    right: Sequence[str]
    wrong: Sequence[str]
    special: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, tokenizer: Any, task: str) -> Prompt:
        """Both texts as tokens, or Unlabelled where they cannot be aligned.

        The answer begins with the first token in which right and wrong differ, so that a blank or
        digits which both share belong to the question.
        """
        text, places = _fill(self.template, self.values)
        whole, clean, twin = self._encode(tokenizer, text)
        spans = {name: whole.span(*place) for name, place in places.items() if place[0] < place[1]}
        other, elsewhere = _fill(self.template, {**self.values, **self.counter})
        far, against, _ = self._encode(tokenizer, other)
        aligned = {name: far.span(*p) for name, p in elsewhere.items() if p[0] < p[1]}
        start = _shared(clean, twin)
        if aligned != spans or len(against) != len(clean) or against[start:] != clean[start:]:
            raise Unlabelled(f"A {task!r} prompt and its counterfactual do not align: {text[-80:]!r}")
        if start == len(clean) or any(stop > start for _, stop in spans.values()):
            raise Unlabelled(f"The answers of a {task!r} prompt cannot be told apart: {self.right[0]!r}")
        right, wrong = (self._first(tokenizer, text, answers, clean[:start])
                        for answers in (self.right, self.wrong))  # fmt: skip
        unknown = getattr(tokenizer, "unk_token_id", None)
        if against[:start] == clean[:start] or unknown in clean[start:] + twin[start:]:
            raise Unlabelled(f"A {task!r} prompt has words that this tokenizer does not know: {text[-80:]!r}")
        if set(right) & set(wrong):
            raise Unlabelled(f"Answers of a {task!r} prompt begin with the same token: {self.right[0]!r}")
        contrast = Contrast(against[:start], right, wrong)
        meta = {"kind": task, "right": self.right[0].strip(), "wrong": self.wrong[0].strip(), **self.meta}
        return Prompt(task, clean, spans, (start, len(clean)), meta=meta, contrast=contrast)

    def _encode(self, tokenizer: Any, text: str) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
        """The text with the right answer, its ids cut after the answer, and those with the wrong one."""
        found = []
        for answer in (self.right[0], self.wrong[0]):
            encoded = encode(tokenizer, text + answer, special=self.special)
            stop = encoded.span(len(text), len(text) + len(answer))[1]
            found.append((encoded, encoded.ids[:stop]))
        return found[0][0], found[0][1], found[1][1]

    def _first(
        self, tokenizer: Any, text: str, answers: Sequence[str], before: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The first token of each answer after the shared ones, without repetition."""
        first = dict[int, None]()
        for answer in answers:
            ids = encode(tokenizer, text + answer, special=self.special).ids
            if ids[: len(before)] != before or len(ids) == len(before):
                raise Unlabelled(f"The answer {answer!r} changes the tokens before it.")
            first[ids[len(before)]] = None
        return tuple(first)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _fill(template: str, values: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """The template with its fields filled in, and which characters each (the last of a name) takes."""
    text, places = "", dict[str, tuple[int, int]]()
    for literal, name, _, _ in Formatter().parse(template):
        text += literal
        if name is not None:
            places[name] = (len(text), len(text) + len(values[name]))
            text += values[name]
    return text, places


def contrasts(
    task: str,
    tokenizer: Any,
    lengths: Sequence[int],
    per_length: int,
    seed: int,
    draw: Callable[[Random, Cell], Case],
    stream: str | None = None,
) -> list[Prompt]:
    """`per_length` prompts for each length, drawn anew while a draw cannot be labelled.

    Tasks that name the same `stream` (by default their own name) draw the same random numbers.

    Raises:
        HeadscopeError: nothing drawn could be labelled, or a prompt is longer than its length.
    """
    made = []
    for cell in cells(stream or task, lengths, per_length, seed):
        prompt = _draw(task, tokenizer, cell, draw)
        if len(prompt) > cell.length:
            raise HeadscopeError(
                f"A {task!r} prompt takes {len(prompt)} tokens with this tokenizer, "
                f"so a length of {cell.length} is too small."
            )
        made.append(prompt)
    return made


def _draw(task: str, tokenizer: Any, cell: Cell, draw: Callable[[Random, Cell], Case]) -> Prompt:
    reason: Unlabelled | None = None
    for i in range(_TRIES):
        try:
            moved = replace(cell, index=cell.index + i // _PATIENCE)
            return draw(Random(f"{cell.seed}/{i}"), moved).prompt(tokenizer, task)
        except Unlabelled as error:
            reason = error
    raise HeadscopeError(f"No {task!r} prompt could be labelled in {_TRIES} tries: {reason}")
