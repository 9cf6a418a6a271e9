"""Prompts whose counterfactual shows other pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.pictures import Picture
from headscope.probes.prompts import Contrast, Prompt

if TYPE_CHECKING:
    from headscope.probes.vision import Vision


def picture_pair(
    vision: Vision,
    text: str,
    pictures: Sequence[Picture],
    others: Sequence[Picture],
    *,
    right: str,
    wrong: str,
    task: str = "ask",
    chat: bool = True,
    spans: Mapping[str, str] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Prompt:
    """The same question about one set of pictures and about another, for patching.

    Args:
        vision: of the model that is asked, `model.vision`.
        text: what is asked; see `Vision.prompt`.
        pictures: what the prompt shows.
        others: what the counterfactual shows in their place. In models whose image tokens grow with
            the picture they have to be as large.
        right: the answer to the prompt.
        wrong: the answer to the counterfactual; it begins with another token.
        task, chat, spans, meta: as in `Vision.prompt`.

    Raises:
        HeadscopeError: pictures that take other numbers of image tokens, answers that begin alike, and
            what `Vision.prompt` raises.
    """
    made = vision.prompt(text, pictures, task=task, answer=right, chat=chat, spans=spans, meta=meta)
    twin = vision.prompt(text, others, task=task, answer=wrong, chat=chat)
    if made.answer is None or twin.answer is None:
        raise HeadscopeError(f"A pair of {task!r} prompts needs a right and a wrong answer.")
    start = made.answer[0]
    if made.image_runs != twin.image_runs or twin.answer[0] != start:
        count, other = (sum(b - a for a, b in p.image_runs) for p in (made, twin))
        raise HeadscopeError(
            f"The pictures of a {task!r} prompt take {count} image tokens, those of its counterfactual "
            f"{other}; give them the same size."
        )
    contrast = Contrast(twin.ids[:start], (made.ids[start],), (twin.ids[start],), tuple(others))
    return replace(made, contrast=contrast)
