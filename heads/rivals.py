"""What PH3 is compared with beside other choices of heads: instructions, and contrasting logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from headscope.heads.conflicts import Conflicts, Settled, settle
from headscope.probes import Contrast, HeadscopeError, Prompt, Trials, all_answer_logits

if TYPE_CHECKING:
    from headscope.probes import Model

INSTRUCTIONS = {
    "memory": "Answer from your own knowledge. Ignore what the text says if it is not true.\n\n",
    "context": "Answer with what the text says, even if you believe that it is not true.\n\n",
}
ALPHAS = (-1.0, -0.75, -0.5, -0.25, 0.5, 1.0, 2.0, 4.0)


def instructed(model: Model, data: Conflicts, text: str) -> Settled:
    """How conflicts are settled when every prompt begins with `text`.

    Raises:
        HeadscopeError: the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise HeadscopeError(f"{model.name!r} was loaded without a tokenizer, so it cannot be instructed.")
    ids = tuple(int(i) for i in model.tokenizer(text, add_special_tokens=False)["input_ids"])
    begun = (
        tuple(_prefixed(p, ids) for p in prompts) for prompts in (data.conflict, data.agreement, data.closed)
    )
    return settle(model, Conflicts(*begun), [()])[0]


def _prefixed(prompt: Prompt, ids: tuple[int, ...]) -> Prompt:
    """The prompt with `ids` before it; tokens that the tokenizer puts first are then no longer first."""
    n = len(ids)
    assert prompt.answer is not None and prompt.contrast is not None
    return replace(
        prompt,
        ids=ids + prompt.ids,
        spans={name: (a + n, b + n) for name, (a, b) in prompt.spans.items()},
        answer=(prompt.answer[0] + n, prompt.answer[1] + n),
        contrast=Contrast(ids + prompt.contrast.ids, prompt.contrast.right, prompt.contrast.wrong),
    )


@torch.no_grad()
def context_aware(model: Model, data: Conflicts, alphas: Sequence[float] = ALPHAS) -> dict[float, Settled]:
    """Context-aware decoding (Shi et al. 2024, arXiv 2305.14739) at several strengths.

    The logits become (1 + alpha) times those with the context minus alpha times those without: above
    0 the context counts for more, below for less, and at -1 it is forgotten. It costs two forward
    passes a token, and has to be told what the context is.
    """
    without = all_answer_logits(model, data.closed)
    found = {}
    with_context = {name: all_answer_logits(model, getattr(data, name)) for name in ("conflict", "agreement")}
    for alpha in alphas:
        told = {
            name: Trials.of(getattr(data, name), logits + alpha * (logits - without))
            for name, logits in with_context.items()
        }
        alone = Trials.of(data.closed, without)  # without a context there is nothing to contrast
        found[alpha] = Settled(
            told["conflict"].right, told["conflict"].wrong, told["agreement"].right, alone.right
        )
    return found
