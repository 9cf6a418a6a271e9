"""A prompt in words, as the model will read it, and with its labels on tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.prompts import Prompt
from headscope.probes.tokens import Encoded, Unlabelled, encode, spells


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


@dataclass(frozen=True)
class Text:
    """A draft as the model will read it: characters, tokens, and where the answer stands."""

    draft: Draft
    text: str
    encoded: Encoded
    answer: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: Any, draft: Draft, slowly: bool = False) -> Text:
        text, special = render(tokenizer, draft)
        end = len(text) - len(draft.tail)
        whole = encode(tokenizer, text, special=special, slowly=slowly)
        answer = whole.span(end - len(draft.value), end)
        cut = Encoded(whole.ids[: answer[1]], whole.offsets[: answer[1]])
        return cls(draft, text, cut, answer)

    def __len__(self) -> int:
        return len(self.encoded.ids)

    def prompt(self, tokenizer: Any, task: str, meta: Mapping[str, Any]) -> Prompt:
        """Label everything, or raise Unlabelled."""
        ids, before = self.encoded.ids, self.text[: self._answer_begin]
        spans = {name: self._find(tokenizer, mark, before) for name, mark in self.draft.marks.items()}
        spans["haystack"] = self.encoded.span(*_place(before, self.draft.context))
        source = range(*spans["value"])
        if [ids[i] for i in source] != list(ids[slice(*self.answer)]):
            raise Unlabelled(f"{self.draft.value!r} has other tokens in the answer than in the text.")
        if not spells(tokenizer, ids[slice(*self.answer)], self.draft.value):
            raise Unlabelled(f"The tokens of the answer do not spell {self.draft.value!r}.")
        whole = {"kind": task} | dict(meta) | dict(self.draft.meta)
        return Prompt(task, ids, spans, self.answer, tuple(source), meta=whole)

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
    begin, times = text.find(piece), text.count(piece)
    if times == 1:
        return begin, begin + len(piece)
    if not times:  # a chat template may have changed the blanks
        found = list(re.finditer(r"\s+".join(map(re.escape, piece.split())), text))
        if len(found) == 1:
            return found[0].span()
        times = len(found)
    where = "stands more than once in" if times else "is missing from"
    raise Unlabelled(f"{piece[:80]!r} {where} the prompt.")


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
