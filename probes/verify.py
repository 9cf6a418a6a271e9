"""Does what the seam sees agree with the model's own attention? Asked once, when a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.probes.errors import Refused
from headscope.probes.recipe import Watch
from headscope.probes.rows import RowObserver
from headscope.probes.seam import attach

if TYPE_CHECKING:
    from headscope.probes.model import Model

_TOKENS = 24
_FINE = 1e-3  # largest difference in float32
_COARSE = 0.02  # mean difference in half precision, where rounding drifts apart over the layers


@torch.no_grad()
def verify(model: Model) -> None:
    """Compare a short prompt's rows with the model's own eager attention weights.

    Raises:
        Refused: they differ, so that a scan of this model would be wrong.
    """
    vocabulary = model.hf.config.get_text_config(decoder=True).vocab_size
    ids = (torch.arange(1, _TOKENS + 1, device=model.device) * 7919 % vocabulary)[None]
    seen = RowObserver(torch.arange(_TOKENS)[None], Watch(first=(1,), recent=(), keep=()))
    with attach(model, seen):
        model.decoder(input_ids=ids, use_cache=False)
    seen.check()
    exact = model.hf.dtype in (torch.float32, torch.float64)
    for layer, weights in enumerate(_eager(model, ids)):
        got, own = seen.layers[layer], weights.float().cpu()
        refuse_unbounded(model.name, layer, got.lse[0])
        gaps = torch.stack([
            (got.first[..., 0] - own[..., 0]).abs(),
            (got.top_mass[..., 0] - own.amax(-1)).abs(),
            (got.received - own.sum(2)).abs() / _TOKENS,
        ])  # fmt: skip
        gap = float(gaps.max() if exact else gaps.mean())
        if not gap <= (_FINE if exact else _COARSE):
            raise Refused(
                f"{model.name!r} ({type(model.hf).__name__}): what headscope sees of layer {layer} "
                f"differs from the model's own attention by {gap:.2g}, so a scan would be wrong."
            )


def refuse_unbounded(name: str, layer: int, lse: Tensor) -> None:
    """Refuse log-sum-exps [H, R] that are not finite, naming the layer and the heads."""
    bad = (~torch.isfinite(lse)).any(-1).nonzero()[:, 0].tolist()
    if bad:
        raise Refused(
            f"The attention of {name!r} is not finite in layer {layer}, heads {bad}: "
            "are there NaN or infinite weights?"
        )


def _eager(model: Model, ids: Tensor) -> tuple[Tensor, ...]:
    """Attention weights by the model's own eager code, or nothing where it has none to show."""
    decoder = model.decoder
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    try:
        found = decoder(input_ids=ids, use_cache=False, output_attentions=True).attentions
        return tuple(w for w in found or () if w is not None)
    finally:
        decoder.set_attn_implementation(before)
