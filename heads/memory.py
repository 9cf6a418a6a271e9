"""How much memory a scan will need, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from headscope.kernels import CHUNK_ELEMENTS
from headscope.probes import Model, Recipe

# Live buffers of a layer, measured in widths of the residual stream and of the MLP.
_STREAMS, _MLPS = 8, 3
_CHUNK_COPIES = 6  # scores, weights, prefix sums, and their temporaries


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes: the weights, and on top of them the peak while the longest prompt runs."""

    weights: int
    prefill: int
    rows: int

    @property
    def total(self) -> int:
        return self.weights + self.prefill + self.rows


def estimate_memory(model: Model, context: int, recipe: Recipe) -> MemoryEstimate:
    """Estimate the memory of a scan whose longest prompt has `context` tokens."""
    size = model.hf.dtype.itemsize
    config = model.hf.config.get_text_config(decoder=True)
    mlp = int(getattr(config, "intermediate_size", 0) or 4 * model.geometry.hidden)
    heads = model.geometry.heads
    limit = recipe.watch.chunk_elements or CHUNK_ELEMENTS.get(model.device.type, 1 << 24)
    chunk = max(limit, heads * context)
    return MemoryEstimate(
        weights=sum(p.numel() * p.element_size() for p in model.hf.parameters()),
        prefill=size * context * (_STREAMS * model.geometry.hidden + _MLPS * mlp),
        rows=4 * (_CHUNK_COPIES * chunk + recipe.sample * heads * model.geometry.hidden * 3),
    )
