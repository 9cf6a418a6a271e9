"""What every head alone is worth: to the answer of a prompt, and to plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.evaluate import Variant, answer_tokens, answers, losses, prefill, resumed
from headscope.probes.prompts import Prompt
from headscope.probes.side_by_side import Asked, each_alone
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model


def each_head(
    model: Model,
    prompts: Sequence[Prompt],
    spec: Spec,
    done: Callable[[int], object] = lambda count: None,
) -> NDArray[np.float64]:
    """Fall of the answer's log-probability when one head alone is changed while it is written.

    Args:
        model: the model.
        prompts: prompts with an answer.
        spec: what would be done to all heads together; its positions are taken as `generated`.
        done: called after every prompt with the number done.

    Returns:
        Nats per answer token, for each of the spec's heads. [heads, P]

    Raises:
        HeadscopeError: a prompt has no answer.
    """
    late = spec.model_copy(update={"positions": "generated"})
    return each_alone(model, prompts, late, _answer, _answer_losses, done)


def each_head_loss(
    model: Model,
    texts: Sequence[Prompt],
    spec: Spec,
    done: Callable[[int], object] = lambda count: None,
) -> NDArray[np.float64]:
    """Rise of a text's loss when one head alone is changed in all of its rows.

    Args:
        model: the model.
        texts: plain text.
        spec: what would be done to all heads together; its positions are taken as `all`.
        done: called after every text with the number done.

    Returns:
        Nats per predicted token, for each of the spec's heads. [heads, T]
    """
    whole = spec.model_copy(update={"positions": "all"})
    return each_alone(model, texts, whole, _text, losses, done)


def _answer(model: Model, prompt: Prompt) -> Asked:
    """The answer's, per token. The prompt is read once: nothing changes before the answer."""
    cache, (ids, target) = prefill(model, prompt), answer_tokens(model, prompt)

    def lost(copies: int) -> Tensor:
        twins = resumed(cache, copies)
        out = model.hf(input_ids=ids.expand(copies, -1), past_key_values=twins, use_cache=True)
        logits = out.logits.float().log_softmax(-1)
        return -logits.gather(-1, target.expand(copies, -1)[..., None])[..., 0].mean(-1)

    return Asked(lost, torch.tensor(prompt.answer_rows))


def _answer_losses(
    model: Model, prompts: Sequence[Prompt], variants: Sequence[Variant]
) -> NDArray[np.float64]:
    return -answers(model, prompts, variants).logprob


def _text(model: Model, text: Prompt) -> Asked:
    """The text's, per predicted token; one sequence at a time to save memory."""
    ids = torch.tensor([text.ids], device=model.device)

    def lost(copies: int) -> Tensor:
        out = model.hf(input_ids=ids.expand(copies, -1), use_cache=False)
        each = [torch.nn.functional.cross_entropy(x[:-1].float(), ids[0, 1:]) for x in out.logits]
        return torch.stack(each)

    return Asked(lost, torch.arange(len(text)))
