"""What ablating each head alone would do, to first order: all heads from one backward pass.

The change that an intervention would make to a head's output, times the gradient of what the model
is asked for with respect to it (attribution patching, Nanda 2023). It misses what is not linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.errors import HeadscopeError
from headscope.probes.inside import head_outputs
from headscope.probes.intervene import HeadOutputs, OutputEdit, edit_of, method_of
from headscope.probes.passes import Rows
from headscope.probes.prompts import Prompt
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model


def each_head_estimate(
    model: Model,
    prompts: Sequence[Prompt],
    spec: Spec,
    done: Callable[[int], object] = lambda count: None,
) -> NDArray[np.float64]:
    """First-order estimate of `each_head` for prompts with an answer, of `each_head_loss` for texts.

    Args:
        model: the model.
        prompts: prompts whose answer counts, or plain text, of which every token does.
        spec: what would be done to all heads together.
        done: called after every prompt with the number done.

    Returns:
        Nats per answer token or per predicted token, positive where it would get worse. [heads, P]

    Raises:
        HeadscopeError: the method does not change head outputs row by row, so nothing is linear.
    """
    edit = edit_of(model, spec)
    if method_of(spec).stateful or not isinstance(edit, OutputEdit):
        raise HeadscopeError(
            f"{spec.method!r} does not replace what heads put out, so its effect cannot be estimated."
        )
    found = np.zeros((len(spec.heads), len(prompts)))
    for p, prompt in enumerate(prompts):
        for layer, rise in enumerate(_rises(model, prompt, edit)):
            for i in spec.of_layer(layer):
                found[i, p] = rise[spec.heads[i].head]
        done(p + 1)
    return found


def _rises(model: Model, prompt: Prompt, edit: OutputEdit) -> list[NDArray[np.float64]]:
    """The estimated rise of one prompt's loss, an entry a layer. [H] each"""
    held: list[Tensor] = []

    def keep(_: int, z: Tensor) -> Tensor:
        z = z if z.requires_grad else z.detach().requires_grad_()  # frozen weights: the graph begins here
        held.append(z)
        return z

    at = prompt.answer_rows or tuple(range(len(prompt) - 1))
    ids, rows = torch.tensor([prompt.ids], device=model.device), torch.tensor(at, device=model.device)
    with torch.enable_grad(), head_outputs(model, keep):
        logits = model.hf(input_ids=ids, use_cache=False, logits_to_keep=rows).logits[0].float()
        loss = torch.nn.functional.cross_entropy(logits, ids[0, rows + 1])
        slopes = torch.autograd.grad(loss, held)
    acts = torch.zeros(1, len(prompt), dtype=torch.bool, device=model.device)
    acts[0, rows if prompt.answer else slice(None)] = True
    place = Rows(torch.arange(len(prompt), device=model.device)[None], acts, None)
    pairs = zip(held, slopes, strict=True)
    return [_rise(edit, layer, z.detach(), slope, place) for layer, (z, slope) in enumerate(pairs)]


def _rise(edit: OutputEdit, layer: int, z: Tensor, slope: Tensor, rows: Rows) -> NDArray[np.float64]:
    change = edit.outputs(HeadOutputs(layer, z, rows)).double() - z.double()
    found: NDArray[np.float64] = (slope.double() * change).sum((0, 1, 3)).cpu().numpy()
    return found
