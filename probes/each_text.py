"""Every head ablated alone in every row of a text, layer by layer as a batch.

The layers below an ablated head are the untouched model's, so they run once per text, and the heads
of one layer go through the rest side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.each_head import from_layer, keeping, one_each
from headscope.probes.evaluate import losses
from headscope.probes.intervene import OutputEdit, edit_of, method_of, only
from headscope.probes.prompts import Prompt
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model

_CLOSE = 1e-2  # nats between the two ways in half precision; in float32 they differ by 1e-5
_TOKENS = 2048  # of one batch; its logits are all held at once


@torch.no_grad()
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
    if method_of(whole).stateful or not isinstance(edit_of(model, whole), OutputEdit):
        return _one_by_one(model, texts, whole, done)
    found = np.zeros((len(spec.heads), len(texts)))
    for t, text in enumerate(texts):
        found[:, t] = _side_by_side(model, text, whole)
        if t == 0 and not _agrees(model, text, whole, found[:, 0]):
            # Layers that are not independent of the ones below (shared keys, say).
            return _one_by_one(model, texts, whole, done)
        done(t + 1)
    return found


def _one_by_one(
    model: Model, texts: Sequence[Prompt], spec: Spec, done: Callable[[int], object]
) -> NDArray[np.float64]:
    found = np.zeros((len(spec.heads), len(texts)))
    for t, text in enumerate(texts):
        loss = losses(model, [text], [(), *((only(spec, [h]),) for h in spec.heads)])[:, 0]
        found[:, t] = loss[1:] - loss[0]
        done(t + 1)
    return found


def _agrees(model: Model, text: Prompt, spec: Spec, found: NDArray[np.float64]) -> bool:
    """Whether a head of the last layer comes out the same in a pass of its own."""
    last = max(range(len(spec.heads)), key=lambda i: spec.heads[i])
    alone = _one_by_one(model, [text], only(spec, [spec.heads[last]]), lambda count: None)
    return bool(abs(alone[0, 0] - found[last]) < _CLOSE)


def _side_by_side(model: Model, text: Prompt, spec: Spec) -> NDArray[np.float64]:
    """The rises of one text. [heads]"""
    ids, at = torch.tensor([text.ids], device=model.device), torch.arange(len(text))
    with keeping(model) as outputs:
        before = _losses(model.hf(input_ids=ids, use_cache=False), ids)
    edit = edit_of(model, spec)
    assert isinstance(edit, OutputEdit)
    rises, step = np.zeros(len(spec.heads)), max(1, _TOKENS // len(text))
    for layer in spec.layers:
        every = spec.of_layer(layer)
        for start in range(0, len(every), step):
            index = every[start : start + step]
            heads = [spec.heads[i].head for i in index]
            with from_layer(model, layer, outputs, len(heads)), one_each(model, layer, heads, edit, at):
                out = model.hf(input_ids=ids.expand(len(heads), -1), use_cache=False)
            rises[index] = (_losses(out, ids) - before).cpu().numpy()
    return rises


def _losses(out: Any, ids: Tensor) -> Tensor:
    """Mean loss of each sequence in nats per predicted token, one at a time to save memory. [B]"""
    return torch.stack([torch.nn.functional.cross_entropy(x[:-1].float(), ids[0, 1:]) for x in out.logits])
