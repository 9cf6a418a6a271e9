"""Every head ablated alone, at a fraction of the price of one pass each.

Ablated while the answer is written, a head changes nothing before: the prompt's cache and the
layers below it are the untouched model's. So the heads of one layer go through the model side by
side, as a batch, from that layer on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headscope.probes.evaluate import Variant, answer_tokens, answers, prefill, resumed
from headscope.probes.intervene import HeadOutputs, OutputEdit, edit_of, method_of, only
from headscope.probes.passes import Rows
from headscope.probes.prompts import Prompt
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model

_CLOSE = 1e-2  # nats between the two ways in half precision; in float32 they differ by 1e-5


@torch.no_grad()
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
    if method_of(late).stateful or not isinstance(edit_of(model, late), OutputEdit):
        return _one_by_one(model, prompts, late, done)
    found = np.zeros((len(spec.heads), len(prompts)))
    for p, prompt in enumerate(prompts):
        found[:, p] = _side_by_side(model, prompt, late)
        if p == 0 and not _agrees(model, prompt, late, found[:, 0]):
            # Layers that are not independent of the ones below (shared keys, say).
            return _one_by_one(model, prompts, late, done)
        done(p + 1)
    return found


def _one_by_one(
    model: Model, prompts: Sequence[Prompt], spec: Spec, done: Callable[[int], object]
) -> NDArray[np.float64]:
    variants: list[Variant] = [(), *((only(spec, [h]),) for h in spec.heads)]
    logprob = answers(model, prompts, variants, done).logprob
    return logprob[0] - logprob[1:]


def _agrees(model: Model, prompt: Prompt, spec: Spec, found: NDArray[np.float64]) -> bool:
    """Whether a head of the last layer comes out the same in a pass of its own."""
    last = max(range(len(spec.heads)), key=lambda i: spec.heads[i])
    alone = _one_by_one(model, [prompt], only(spec, [spec.heads[last]]), lambda count: None)
    return bool(abs(alone[0, 0] - found[last]) < _CLOSE)


def _side_by_side(model: Model, prompt: Prompt, spec: Spec) -> NDArray[np.float64]:
    """The falls of one prompt. [heads]"""
    cache, (ids, target) = prefill(model, prompt), answer_tokens(model, prompt)
    with keeping(model) as outputs:
        before = _logprob(model.hf(input_ids=ids, past_key_values=resumed(cache), use_cache=True), target)
    edit = edit_of(model, spec)
    assert isinstance(edit, OutputEdit)
    falls, at = np.zeros(len(spec.heads)), torch.tensor(prompt.answer_rows)
    for layer in spec.layers:
        index = spec.of_layer(layer)
        heads = [spec.heads[i].head for i in index]
        twins = resumed(cache, len(heads))
        with from_layer(model, layer, outputs, len(heads)), one_each(model, layer, heads, edit, at):
            out = model.hf(input_ids=ids.expand(len(heads), -1), past_key_values=twins, use_cache=True)
        falls[index] = (before - _logprob(out, target)).cpu().numpy()
    return falls


def _logprob(out: Any, target: Tensor) -> Tensor:
    """Mean log-probability of the answer in each sequence. [B]"""
    logits = out.logits.float().log_softmax(-1)
    return logits.gather(-1, target.expand(len(logits), -1)[..., None])[..., 0].mean(-1)


@contextmanager
def keeping(model: Model) -> Iterator[dict[int, Any]]:
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
def one_each(model: Model, layer: int, heads: Sequence[int], edit: OutputEdit, at: Tensor) -> Iterator[None]:
    """Change head `heads[b]` of `layer` in sequence b and no other; the rows are those at `at`. [T]"""
    g = model.geometry

    def change(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].unflatten(-1, (g.heads, g.value_dim))
        position = at.to(z.device).expand(len(heads), -1)
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
def from_layer(model: Model, layer: int, outputs: dict[int, Any], batch: int) -> Iterator[None]:
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
