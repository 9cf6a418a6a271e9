"""What a model says to a prompt as it is, and under an intervention."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from torch import Tensor

    from headscope.probes import Model, Spec


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


def before_after(model: Model, spec: Spec, text: str, *, length: int = 24, top: int = 8) -> BeforeAfter:
    """Run a prompt with and without an intervention.

    Args:
        model: the model that the spec was fitted to.
        spec: the intervention.
        text: the prompt, as it is.
        length: tokens to continue with.
        top: next tokens to list of either.

    Raises:
        HeadscopeError: no prompt, or no room for the continuation in the model's context.
        Refused: a spec for another model.
    """
    ids = model.encode(text)
    n, limit = ids.shape[1], model.geometry.context
    if not n:
        raise HeadscopeError("The prompt is empty.")
    if limit and n + length > limit:
        raise HeadscopeError(
            f"The prompt has {n:,} tokens and {length} are to come, beyond the {limit:,} of {model.name!r}."
        )
    plain, said = _answer(model, None, ids, length)
    changed, says = _answer(model, spec, ids, length)
    listed = [int(i) for i in plain.topk(top).indices] + [int(i) for i in changed.topk(top).indices]
    tokens = tuple(
        NextToken(str(model.tokenizer.decode([i])) if model.tokenizer else str(i),
                  float(plain[i].exp()), float(changed[i].exp()))
        for i in dict.fromkeys(listed)
    )  # fmt: skip
    return BeforeAfter(said, says, tokens, float((plain.exp() * (plain - changed)).sum()))


def _answer(model: Model, spec: Spec | None, ids: Tensor, length: int) -> tuple[Tensor, str]:
    """Log-probabilities of the next token [vocabulary], and the greedy continuation."""
    import torch

    from headscope.probes import applied

    def under() -> AbstractContextManager[None]:
        return applied(model, spec, prompt=ids.shape[1]) if spec else nullcontext()

    with torch.no_grad(), under():
        logits = model.hf(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
    with torch.no_grad(), under():
        generate: Any = model.hf.generate
        out = generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
    said = out[0, ids.shape[1] :].tolist()
    text = model.tokenizer.decode(said, skip_special_tokens=True) if model.tokenizer else str(said)
    return logits.log_softmax(-1).cpu(), str(text)
