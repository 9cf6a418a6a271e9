"""What the residual stream looks like on the way through the layers.

Massive activations sit in a few dimensions of a few tokens (Sun et al. 2024); with drained
values and concentrated attention they make up the extreme tokens of Guo et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from headscope.probes.model import Model


@dataclass
class ResidualMeter:
    """Per layer input, one entry a layer, for a single sequence of n tokens.

    Attributes:
        norm: Euclidean norm of every token. [n]
        peak_dim: the dimension of the largest absolute entry of every token. [n]
        peak: that entry, with its sign. [n]
        inf_norm: largest absolute entry of the whole sequence (Bondarenko et al. 2023).
        kurtosis: fourth moment over squared variance of all n x d entries, 3 for a Gaussian
            (same source); NaN where `moments` is off.
    """

    moments: bool = True
    norm: list[Tensor] = field(default_factory=list)
    peak_dim: list[Tensor] = field(default_factory=list)
    peak: list[Tensor] = field(default_factory=list)
    inf_norm: list[float] = field(default_factory=list)
    kurtosis: list[float] = field(default_factory=list)

    def see(self, hidden: Tensor) -> None:
        """Take in the residual stream before one layer. [1, n, d]"""
        x = hidden.detach()[0].float()
        largest, at = x.abs().max(-1)
        self.norm.append(x.norm(dim=-1).cpu())
        self.peak_dim.append(at.cpu())
        self.peak.append(x.gather(-1, at[:, None])[:, 0].cpu())
        self.inf_norm.append(float(largest.max()))
        self.kurtosis.append(_kurtosis(x) if self.moments else float("nan"))


def _kurtosis(x: Tensor) -> float:
    centred = x - x.mean()
    square = centred * centred
    variance = square.sum() / max(1, x.numel() - 1)
    return float((square * square).mean() / (variance * variance + 1e-6))


@contextmanager
def residual_stream(model: Model, meter: ResidualMeter) -> Iterator[None]:
    """Feed `meter` the input of every layer while the block lasts."""

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        meter.see(args[0] if args else kwargs["hidden_states"])

    handles = [
        layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in model.layer_modules
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
