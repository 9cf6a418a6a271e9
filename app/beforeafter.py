"""What a model says to a prompt as it is, and under an intervention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from headscope.probes import Model, Picture, Spec


@dataclass(frozen=True)
class NextToken:
    """A token that may come next, and its probability without and with the intervention."""

    token: str
    before: float
    after: float


@dataclass(frozen=True)
class BeforeAfter:
    """Both answers.

    Attributes:
        before, after: the greedy continuations.
        tokens: the likeliest next tokens of either, the likeliest without the intervention first.
        kl: KL(before || after) of the next-token distributions. nats
    """

    before: str
    after: str
    tokens: tuple[NextToken, ...]
    kl: float


def before_after(
    model: Model, spec: Spec, text: str, *, pictures: Sequence[Picture] = (), length: int = 24, top: int = 8
) -> BeforeAfter:
    """Run the beginning of a text, or a question about pictures, with and without an intervention.

    Args:
        model: the model that the spec was fitted to.
        spec: the intervention.
        text: the prompt: as it is, or the user's turn after the pictures, where the model has turns.
        pictures: what the model is shown.
        length: tokens to continue with, at most.
        top: next tokens to list of either.

    Raises:
        HeadscopeError: no prompt, or no room for the continuation in the model's context.
        Refused: a spec for another model, or pictures for a model of text alone.
    """
    from headscope.probes import generate

    said, says = (
        generate(model, text, *specs, max_new_tokens=length, chat=bool(pictures), pictures=pictures)
        for specs in ((), (spec,))
    )
    plain, changed = _next(model, text, pictures), _next(model, text, pictures, spec)
    listed = [int(i) for i in plain.topk(top).indices] + [int(i) for i in changed.topk(top).indices]
    tokens = tuple(
        NextToken(
            str(model.tokenizer.decode([i])) if model.tokenizer else str(i),
            float(plain[i].exp()), float(changed[i].exp()),
        )
        for i in dict.fromkeys(listed)
    )  # fmt: skip
    return BeforeAfter(said, says, tokens, float((plain.exp() * (plain - changed)).sum()))


def _next(model: Model, text: str, pictures: Sequence[Picture], *specs: Spec) -> Tensor:
    """Log-probabilities of the next token. [vocabulary], float32"""
    import torch

    from headscope.probes import applied

    if pictures and model.vision:
        inputs = model.inputs([model.vision.prompt(text, pictures)])
    else:
        inputs = {"input_ids": model.encode(text)}
    with torch.no_grad(), applied(model, *specs, prompt=inputs["input_ids"].shape[1]):
        logits = model.hf(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1].float()
    return logits.log_softmax(-1).cpu()
