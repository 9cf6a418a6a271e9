"""What the residual stream looks like on the way through the layers.

Massive activations sit in a few dimensions of a few tokens (Sun et al. 2024); with drained
values and concentrated attention they make up the extreme tokens of Guo et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from headscope.probes.model import Model


@dataclass
class ResidualMeter:
    """Per layer input, one entry a layer, for a single sequence of n tokens.

    Attributes:
        moments: whether to compute the kurtosis.
        extremes: how many of the largest tokens of a layer to keep.
        peak_token: the tokens with the largest Euclidean norm, largest first. [extremes]
        peak_norm: their norms. [extremes]
        peak_dim: the dimension of the largest absolute entry of each. [extremes]
        peak_value: that entry, with its sign. [extremes]
        median_norm: median token norm.
        inf_norm: largest absolute entry of the whole sequence (Bondarenko et al. 2023).
        kurtosis: fourth moment over squared variance of all n x d entries, 3 for a Gaussian
            (same source); NaN where `moments` is off.
    """

    moments: bool = True
    extremes: int = 8
    peak_token: list[Tensor] = field(default_factory=list)
    peak_norm: list[Tensor] = field(default_factory=list)
    peak_dim: list[Tensor] = field(default_factory=list)
    peak_value: list[Tensor] = field(default_factory=list)
    median_norm: list[Tensor] = field(default_factory=list)
    inf_norm: list[Tensor] = field(default_factory=list)
    kurtosis: list[Tensor] = field(default_factory=list)

    def see(self, hidden: Tensor) -> None:
        """Take in the residual stream before one layer. [1, n, d]"""
        x = hidden.detach()[0].float()
        norm = x.norm(dim=-1)
        top, token = norm.topk(min(self.extremes, len(norm)))
        dim = x[token].abs().argmax(-1)
        low, high = x.aminmax()
        self.peak_token.append(token)
        self.peak_norm.append(top)
        self.peak_dim.append(dim)
        self.peak_value.append(x[token, dim])
        self.median_norm.append(norm.median())
        self.inf_norm.append(torch.maximum(-low, high))
        self.kurtosis.append(_kurtosis(x) if self.moments else torch.tensor(torch.nan))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything seen, one entry per layer, now copied to the CPU. [L] or [L, extremes]"""
        names = [f.name for f in fields(self) if f.name not in ("moments", "extremes")]
        return {name: torch.stack([x.cpu() for x in getattr(self, name)]).numpy() for name in names}


def _kurtosis(x: Tensor) -> Tensor:
    """Token by token first, then over tokens: the order, and so the result, is always the same."""
    centred = x - x.mean(-1).double().mean().float()
    square = centred * centred
    second = square.sum(-1).cpu().double().sum()
    fourth = (square * square).sum(-1).cpu().double().sum()
    variance = second / max(1, x.numel() - 1)
    return (fourth / x.numel() / (variance * variance + 1e-6)).float()


@contextmanager
def residual_stream(model: Model, meter: ResidualMeter) -> Iterator[None]:
    """Feed `meter` the input of every layer while the block lasts."""

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        meter.see(args[0] if args else kwargs["hidden_states"])

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in model.layer_modules]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
