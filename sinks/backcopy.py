"""What the theory of Guo et al. 2024 (arXiv 2410.13835) says of the Bigram-Backcopy model, measured.

The model's attention has one thing to do: after a trigger, fetch the token before it. Elsewhere it
should do nothing, and softmax attention can only do nothing by resting on a token whose value is
nothing. So, during training, non-trigger rows come to rest on `<s>` (the sink), what `<s>` hands on
shrinks (the value drain), and the two push each other on: the sink's logit grows like log t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headscope.probes import AttentionCall, Estimate, attach, over_prompts
from headscope.probes.toys.bigram_backcopy import World, scores, softmax_weights, weighted, world

if TYPE_CHECKING:
    from headscope.probes import Model

_UNSEEN = 1_000_003  # added to the seed: no text is one of the training's


@dataclass(frozen=True)
class Backcopying:
    """How a model does the Bigram-Backcopy task.

    Attributes:
        layers: one row per layer, means over rows and heads, each with its `_se` over texts.
            `sink_mass`: attention of non-trigger rows on `<s>`; `sink_mass_trigger`: of trigger rows.
            `copy_mass`: attention of trigger rows on the token before.
            `sink_logit`: score of `<s>` minus the mean score of the other visible keys, non-trigger rows.
            `value_sink`, `value_others`: norm of W_O v of `<s>`, and its mean over the other tokens.
            `residual_sink`, `residual_others`: norm of the residual stream after the layer at `<s>`,
            and the largest among the other tokens.
        backcopy_risk: loss in trigger rows, nats; 0 is perfect.
        bigram_risk: loss in non-trigger rows above the entropy of what can follow, nats; 0 is perfect.
    """

    layers: pd.DataFrame
    backcopy_risk: Estimate
    bigram_risk: Estimate


@dataclass
class _Reader:
    """Collects, layer by layer, one number per text. B texts of T tokens."""

    model: Model
    trigger: Tensor
    weights: Callable[[AttentionCall], Tensor]
    found: list[dict[str, NDArray[np.float64]]] = field(default_factory=list)

    def see(self, call: AttentionCall) -> None:
        weight, score = self.weights(call).mean(1), scores(call).mean(1)
        rows = torch.arange(weight.shape[1], device=weight.device)
        late = rows >= 2  # earlier rows have no token before them that could be copied
        called, quiet = self.trigger & late, ~self.trigger & late
        others = (score.tril().sum(-1) - score[..., 0] - score.diagonal(dim1=1, dim2=2)) / (rows - 1).clamp(1)
        values = torch.einsum("bgtd,gdm->btm", _per_head(call), self.model.output_weight(call.layer))
        size = values.norm(dim=-1)
        self.found.append({
            "sink_mass": _mean(weight[..., 0], quiet),
            "sink_mass_trigger": _mean(weight[..., 0], called),
            "copy_mass": _mean(weight.diagonal(-1, 1, 2), called[:, 1:]),
            "sink_logit": _mean(score[..., 0] - others, quiet),
            "value_sink": size[:, 0].double().cpu().numpy(),
            "value_others": size[:, 1:].mean(-1).double().cpu().numpy(),
        })  # fmt: skip


def read_backcopy(
    model: Model,
    *,
    weights: Callable[[AttentionCall], Tensor] = softmax_weights,
    here: World | None = None,
    texts: int = 64,
    seed: int = 0,
) -> Backcopying:
    """Measure a Bigram-Backcopy model on texts that its training has not seen.

    Args:
        model: from `load("bigram-backcopy")`, or of another checkpoint.
        weights: how its attention makes weights of scores; `relu_weights` for the ReLU variant.
        here: the task's probabilities; those of the default haystack without one.
        texts: how many.
        seed: of the texts.
    """
    here = here or world()
    ids = here.sequences(texts, torch.Generator().manual_seed(seed + _UNSEEN)).to(model.device)
    trigger = here.trigger.to(model.device)[ids]
    reader, residual = _Reader(model, trigger, weights), list[Tensor]()

    def keep(_: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        residual.append(out[0] if isinstance(out, tuple) else out)

    hooks = [layer.register_forward_hook(keep) for layer in model.layer_modules]
    try:
        with torch.no_grad(), attach(model, reader, attend=weighted(weights)):
            logits = model.hf(input_ids=ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    for found, stream in zip(reader.found, residual, strict=True):
        norm = stream.norm(dim=-1).double().cpu().numpy()
        found |= {"residual_sink": norm[:, 0], "residual_others": norm[:, 1:].max(-1)}
    loss = torch.nn.functional.cross_entropy(
        logits[:, 2:-1].transpose(1, 2).double(), ids[:, 3:], reduction="none"
    )
    called, least = trigger[:, 2:-1], here.entropy.to(model.device)[ids[:, 2:-1]]
    return Backcopying(
        _table(reader.found),
        over_prompts(list(_mean(loss, called)[:, None])),
        over_prompts(list(_mean(loss - least, ~called)[:, None])),
    )


def _per_head(call: AttentionCall) -> Tensor:
    """Values of every query head. [B, H, T, D]"""
    return call.v.repeat_interleave(call.q.shape[1] // call.v.shape[1], 1)


def _mean(values: Tensor, where: Tensor) -> NDArray[np.float64]:
    """Over the chosen rows of each text. [B]"""
    found: NDArray[np.float64] = ((values * where).sum(-1) / where.sum(-1)).double().cpu().numpy()
    return found


def _table(found: list[dict[str, NDArray[np.float64]]]) -> pd.DataFrame:
    rows = []
    for layer, of in enumerate(found):
        row: dict[str, float] = {"layer": layer}
        for name, values in of.items():
            estimate = over_prompts(list(values[:, None]))
            row |= {name: float(estimate.value[0]), f"{name}_se": float(estimate.se[0])}
        rows.append(row)
    return pd.DataFrame(rows)
