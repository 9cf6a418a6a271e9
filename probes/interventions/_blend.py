"""What the ablations share: moving chosen heads' outputs towards something else, in chosen rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.probes.errors import HeadscopeError
from headscope.probes.geometry import HeadId
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model

_LENGTH, _TEXTS = 256, 8


def blend(z: Tensor, other: Tensor | float, spec: Spec, layer: int, acts: Tensor) -> Tensor:
    """`other + strength (z - other)` for the spec's heads in the rows that it changes, z elsewhere.

    Args:
        z: what the heads put out. [B, T, H, D]
        other: what to put in its place, for the spec's heads of this layer, in the spec's order,
            or a number. [B, T, heads, D] or anything that broadcasts to it
        acts: the rows to change. [B, T]
    """
    index = spec.of_layer(layer)
    heads = [spec.heads[i].head for i in index]
    gone = 1.0 - torch.tensor([spec.strengths[i] for i in index], device=z.device, dtype=z.dtype)
    mine = z[:, :, heads]
    # Written so that strength 1 adds exactly nothing.
    changed = mine + gone[:, None] * (torch.as_tensor(other, device=z.device, dtype=z.dtype) - mine)
    edited = z.clone()
    edited[:, :, heads] = torch.where(acts[..., None, None], changed, mine)
    return edited


def named(heads: Sequence[HeadId] | None, method: str) -> tuple[HeadId, ...]:
    """The heads, which this method cannot choose itself."""
    if not heads:
        raise HeadscopeError(
            f"{method!r} does not choose heads itself: name some, for example heads=['L18H6']."
        )
    return tuple(heads)


def reference(model: Model, prompts: Sequence[Prompt], seed: int) -> Sequence[Prompt]:
    """The texts an ablation takes its substitute from: those given, or windows of the default prose."""
    if prompts:
        return prompts
    if model.tokenizer is None:
        raise HeadscopeError(
            f"{model.name!r} was loaded without a tokenizer, so it has no texts to learn from: give prompts."
        )
    length = min(_LENGTH, model.geometry.context or _LENGTH)
    return TASKS["prose"].prompts(
        model.tokenizer, lengths=[length], per_length=_TEXTS, seed=seed, haystack=None
    )


@torch.no_grad()
def head_outputs(model: Model, prompt: Prompt, heads: Sequence[HeadId]) -> Tensor:
    """Outputs of `heads` in every row of a prompt but the first, which is like no other.

    Returns:
        [rows, heads, value_dim], float32, on the CPU.

    Raises:
        HeadscopeError: the prompt has a single token.
    """
    if len(prompt) < 2:
        raise HeadscopeError("A reference text needs at least 2 tokens.")
    width, found = model.geometry.value_dim, {}
    hooks = [
        model.output_projection(layer).register_forward_pre_hook(
            lambda _, args, layer=layer: found.update({layer: args[0][0, 1:].float().cpu()})
        )
        for layer in {head.layer for head in heads}
    ]
    try:
        model.hf(**model.inputs([prompt]), use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([found[h.layer].unflatten(-1, (-1, width))[:, h.head] for h in heads], 1)
