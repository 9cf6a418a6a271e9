"""Prompts to try an intervention on: the scan's own questions, or a text of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import address, look, store
from headscope.app.tokens import visible

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import ShownPrompt
    from headscope.probes import Picture

_OWN = "own"
_PROMPT = (
    "The vault opens with the word maple. Clouds moved over the hills, and the market was quiet all day. "
    "Question: which word opens the vault? Answer: the vault opens with the word"
)


@dataclass(frozen=True)
class Question:
    """What the model is asked.

    Attributes:
        text: the beginning of a text, or a question about the pictures.
        pictures: what it is shown.
        file: where the picture lies; empty without one.
    """

    text: str
    pictures: tuple[Picture, ...] = ()
    file: str = ""


def chosen_prompt(run: Run) -> Question:
    """A question of the scan, up to its answer, or a text of the user's own."""
    shown = store.evidence(run, (0, 0))
    asked = {str(p.index): p for p in shown[0] if p.answer and p.right} if shown else {}
    chosen = address.choose(
        "Prompt", "question", [_OWN, *asked], next(iter(asked), _OWN),
        say=lambda n: _name(asked[n]) if n in asked else "a text of your own",
    )  # fmt: skip
    if chosen in asked:
        question = asked[chosen]
        start, stop = question.answer or (0, 0)
        begin, end = "".join(question.tokens[:start]), "".join(question.tokens[start:stop])
        look.note(f"… {begin[-300:]}")
        look.note(f"The right answer goes on: {visible(end)}")
        return Question(begin)
    st.session_state.setdefault("prompt", address.asked("prompt") or _PROMPT)
    prompt = st.text_area("Text", key="prompt", height=110)
    address.put(prompt=prompt if prompt != _PROMPT and len(prompt) < 1500 else None)
    return Question(prompt)


def _name(prompt: ShownPrompt) -> str:
    depth = prompt.meta.get("depth")
    where = f", {depth:.0%} deep" if isinstance(depth, int | float) else ""
    return f"{prompt.kind}, {len(prompt.tokens):,} tokens{where}, answered right"
