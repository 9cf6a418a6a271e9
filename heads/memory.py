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
    """Bytes on the model's device.

    Attributes:
        weights: the parameters.
        held: what is there already beside them; on a CPU, Python and its libraries.
        prefill: the model's own buffers while the longest prompt runs.
        rows: what observing adds to them.
    """

    weights: int
    held: int
    prefill: int
    rows: int

    @property
    def total(self) -> int:
        """Everything together: compare it with what the device has."""
        return self.weights + self.held + self.prefill + self.rows

    @property
    def more(self) -> int:
        """What the scan will still take."""
        return self.prefill + self.rows


def estimate_memory(model: Model, context: int, recipe: Recipe) -> MemoryEstimate:
    """Estimate the memory of a scan whose longest prompt has `context` tokens."""
    size = model.hf.dtype.itemsize
    config = model.hf.config.get_text_config(decoder=True)
    mlp = int(getattr(config, "intermediate_size", 0) or 4 * model.geometry.hidden)
    heads = model.geometry.heads
    limit = recipe.watch.chunk_elements or CHUNK_ELEMENTS.get(model.device.type, 1 << 24)
    chunk = max(limit, heads * context)
    weights = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    return MemoryEstimate(
        weights=weights,
        held=max(0, _now(model) - weights),
        prefill=size * context * (_STREAMS * model.geometry.hidden + _MLPS * mlp),
        rows=4 * (_CHUNK_COPIES * chunk + recipe.sample * heads * model.geometry.hidden * 3),
    )


def _now(model: Model) -> int:
    """Bytes in use on the model's device."""
    if model.device.type == "cuda":
        import torch

        return int(torch.cuda.memory_allocated(model.device))
    import psutil

    return int(psutil.Process().memory_info().rss)
