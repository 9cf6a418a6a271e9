"""Every head changed alone, at a fraction of the price of one pass each.

The layers below a changed head are the untouched model's. So they run once per prompt, and the heads
of one layer go through the rest of the model side by side, as a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headscope.probes.evaluate import Variant
from headscope.probes.intervene import HeadOutputs, OutputEdit, edit_of, method_of, only
from headscope.probes.passes import Rows
from headscope.probes.prompts import Prompt
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model

_CLOSE = 1e-2  # nats between the two ways in half precision; in float32 they differ by 1e-5
_ROWS = 2048  # of one batch; its logits are all held at once

Losses = Callable[["Model", Sequence[Prompt], Sequence[Variant]], NDArray[np.float64]]
"""The losses of P prompts under V variants, in passes of their own, nats. [V, P]"""


@dataclass(frozen=True)
class Asked:
    """What the model loses on one prompt, read in one pass over several copies of it.

    Attributes:
        losses: those of so many copies, nats. [B]
        rows: positions of the rows that such a pass computes. [T]
    """

    losses: Callable[[int], Tensor]
    rows: Tensor


@torch.no_grad()
def each_alone(
    model: Model,
    prompts: Sequence[Prompt],
    spec: Spec,
    asked: Callable[[Model, Prompt], Asked],
    losses: Losses,
    done: Callable[[int], object],
) -> NDArray[np.float64]:
    """Rise of a loss when one head alone is changed.

    Side by side where the method replaces head outputs and a first comparison with a pass of its own
    agrees; else one by one.

    Args:
        model: the model.
        prompts: P prompts.
        spec: what would be done to all heads together.
        asked: the loss of one prompt, in copies.
        losses: the same loss in passes of their own.
        done: called after every prompt with the number done.

    Returns:
        Nats, for each of the spec's heads. [heads, P]
    """
    if method_of(spec).stateful or not isinstance(edit_of(model, spec), OutputEdit):
        return _one_by_one(model, prompts, spec, losses, done)
    found = np.zeros((len(spec.heads), len(prompts)))
    for p, prompt in enumerate(prompts):
        found[:, p] = _side_by_side(model, spec, asked(model, prompt))
        if p == 0 and not _agrees(model, prompt, spec, losses, found[:, 0]):
            # Layers that are not independent of the ones below (shared keys, say).
            return _one_by_one(model, prompts, spec, losses, done)
        done(p + 1)
    return found


def _one_by_one(
    model: Model, prompts: Sequence[Prompt], spec: Spec, losses: Losses, done: Callable[[int], object]
) -> NDArray[np.float64]:
    found = np.zeros((len(spec.heads), len(prompts)))
    for p, prompt in enumerate(prompts):
        loss = losses(model, [prompt], [(), *((only(spec, [h]),) for h in spec.heads)])[:, 0]
        found[:, p] = loss[1:] - loss[0]
        done(p + 1)
    return found


def _agrees(model: Model, prompt: Prompt, spec: Spec, losses: Losses, found: NDArray[np.float64]) -> bool:
    """Whether a head of the last layer comes out the same in a pass of its own."""
    last = max(range(len(spec.heads)), key=lambda i: spec.heads[i])
    alone = _one_by_one(model, [prompt], only(spec, [spec.heads[last]]), losses, lambda count: None)
    return bool(abs(alone[0, 0] - found[last]) < _CLOSE)


def _side_by_side(model: Model, spec: Spec, asked: Asked) -> NDArray[np.float64]:
    """The rises of one prompt. [heads]"""
    with _keeping(model) as outputs:
        before = asked.losses(1)
    edit = edit_of(model, spec)
    assert isinstance(edit, OutputEdit)
    rises, most = np.zeros(len(spec.heads)), max(1, _ROWS // len(asked.rows))
    for layer in spec.layers:
        every = spec.of_layer(layer)
        for start in range(0, len(every), most):
            index = every[start : start + most]
            heads = [spec.heads[i].head for i in index]
            with _from_layer(model, layer, outputs, len(heads)), _one_each(model, layer, heads, edit, asked):
                rises[index] = (asked.losses(len(heads)) - before).cpu().numpy()
    return rises


@contextmanager
def _keeping(model: Model) -> Iterator[dict[int, Any]]:
    """What every layer returns while the block lasts, by layer."""
    outputs: dict[int, Any] = {}
    hooks = [
        layer.register_forward_hook(lambda _, args, out, i=i: outputs.update({i: out}))
        for i, layer in enumerate(model.layer_modules)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _one_each(
    model: Model, layer: int, heads: Sequence[int], edit: OutputEdit, asked: Asked
) -> Iterator[None]:
    """Change head `heads[b]` of `layer` in sequence b and no other."""
    g = model.geometry

    def change(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].unflatten(-1, (g.heads, g.value_dim))
        position = asked.rows.to(z.device).expand(len(heads), -1)
        rows = Rows(position, torch.ones_like(position, dtype=torch.bool), position[:, 0] + 1)
        whole, mine = edit.outputs(HeadOutputs(layer, z, rows)), z.clone()
        for b, head in enumerate(heads):
            mine[b, :, head] = whole[b, :, head]
        return (mine.flatten(-2), *args[1:])

    handle = model.output_projection(layer).register_forward_pre_hook(change)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _from_layer(model: Model, layer: int, outputs: dict[int, Any], batch: int) -> Iterator[None]:
    """Let the layers below `layer` return what they returned before, `batch` times."""
    below = model.layer_modules[:layer]
    own = [module.__dict__.get("forward") for module in below]
    try:
        for i, module in enumerate(below):
            module.forward = lambda *_, i=i, **__: _repeated(outputs[i], batch)
        yield
    finally:
        for module, forward in zip(below, own, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward


def _repeated(output: Any, batch: int) -> Any:
    if isinstance(output, tuple):
        return (output[0].expand(batch, -1, -1), *output[1:])
    return output.expand(batch, -1, -1)
