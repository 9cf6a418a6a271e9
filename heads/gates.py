"""Gates: how much of its full attention every KV head needs, found by gradient descent.

DuoAttention (arXiv 2410.10819): each KV head gets a gate α, and its query heads put
out α·full + (1-α)·(sink + recent window). With the weights frozen, the gates alone learn to keep
the model's last hidden states where they were on prompts that need far-away tokens, while a
penalty pulls every gate to 0. What stays high is a retrieval head.

Full attention is computed on the student's own hidden states, as in the paper's formula and as
the policy is served. The published code takes it from an untouched teacher instead, which saves
one pass of full attention and its gradient, but lets later full heads read what no served model
has: keys and values free of all damage that earlier layers did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from headscope.probes import AttentionCall, HeadscopeError, Model, Prompt, attach, attend, attend_window


def gated(gates: Tensor, sink: int, recent: int) -> Callable[[AttentionCall], Tensor]:
    """Attention in which every head mixes its full and its windowed output; for `attach`.

    Args:
        gates: share of the full output. [L, Hkv], 0 ... 1; gradients flow to it
        sink, recent: what a row of the windowed part sees.
    """

    def mixed(call: AttentionCall) -> Tensor:
        full, cut = attend(call), attend_window(call, sink, recent)
        share = gates[call.layer].to(full.device).repeat_interleave(call.q.shape[1] // call.k.shape[1])
        return (share[:, None] * full + (1 - share[:, None]) * cut).to(full.dtype)

    return mixed


def labelled(prompt: Prompt) -> tuple[int, int]:
    """The tokens whose hidden states must not change: from the question to the end.

    Raises:
        HeadscopeError: the prompt asks nothing.
    """
    if "question" not in prompt.spans:
        raise HeadscopeError(f"Gates need prompts that ask something; {prompt.task!r} prompts do not.")
    return prompt.spans["question"][0], len(prompt)


def teach(model: Model, prompt: Prompt) -> Tensor:
    """What the untouched model has at the labelled tokens, after its final norm. [R, hidden]"""
    with torch.no_grad(), attach(model):
        return _hidden(model, prompt)


def distil(
    model: Model,
    gates: Tensor,
    prompt: Prompt,
    *,
    sink: int,
    recent: int,
    penalty: float = 0.05,
    recompute: bool = False,
) -> float:
    """Add the gradient of one prompt's loss to `gates.grad`.

    The loss is the mean squared difference between the hidden states after the final norm of the
    untouched and the gated model, averaged over dimensions and labelled tokens, plus `penalty`
    times the mean absolute gate.

    Args:
        model: its weights get no gradient.
        gates: a leaf that wants a gradient. [L, Hkv]
        prompt: must ask something, see `labelled`.
        sink, recent: what a row of the windowed part sees.
        penalty: weight of the gates' absolute mean.
        recompute: run every layer a second time for the gradient instead of keeping its inside:
            a third more work, memory that hardly grows with the number of layers.

    Returns:
        The squared difference, without the penalty.
    """
    wanted = teach(model, prompt)
    with ExitStack() as around:
        around.enter_context(frozen(model))
        if recompute:
            around.enter_context(recomputed(model))
        around.enter_context(attach(model, attend=gated(gates, sink, recent)))
        wide = torch.promote_types(wanted.dtype, torch.float32)
        difference = _hidden(model, prompt).to(wide) - wanted.to(wide)
        error = difference.square().mean()
        (error + penalty * gates.abs().mean().to(error.device, wide)).backward()
    return float(error.detach())


def _hidden(model: Model, prompt: Prompt) -> Tensor:
    ids = torch.tensor([prompt.ids], device=model.device)
    hidden: Tensor = model.decoder(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[0, slice(*labelled(prompt))]


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """No gradient for the weights while the block lasts."""
    wanting = [p for p in model.hf.parameters() if p.requires_grad]
    try:
        for parameter in wanting:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)


@contextmanager
def recomputed(model: Model) -> Iterator[None]:
    """Layers that keep only their input for the gradient while the block lasts."""
    own = {layer: layer.__dict__.get("forward") for layer in model.layer_modules}
    try:
        for layer in own:
            once = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
            layer.__dict__["forward"] = once
        yield
    finally:
        for layer, forward in own.items():
            layer.__dict__.pop("forward")
            if forward is not None:
                layer.__dict__["forward"] = forward
