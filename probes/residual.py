"""What the residual stream looks like on the way through the layers.

Massive activations sit in a few dimensions of a few tokens (Sun et al. 2024); with drained
values and concentrated attention they make up the extreme tokens of Guo et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.kernels import kurtosis, token_sizes

if TYPE_CHECKING:
    from headscope.probes.model import Model


@dataclass
class ResidualMeter:
    """What every layer's input looks like, for a single sequence of n tokens of d entries.

    Attributes:
        moments: whether `arrays` gives the kurtosis.
        extremes: how many of the largest tokens of a layer to keep.
    """

    moments: bool = True
    extremes: int = 8
    _layers: list[dict[str, Tensor]] = field(default_factory=list, repr=False)
    _width: int = 0

    def see(self, hidden: Tensor) -> None:
        """Take in the residual stream before one layer; nothing here waits for a GPU. [1, n, d]"""
        sizes = token_sizes(hidden.detach()[0], self.extremes, self.moments)
        self._layers.append(sizes._asdict())
        self._width = hidden.shape[-1]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything seen, one entry per layer, copied to the CPU only now. [L] or [L, extremes]

        `peak_token`: the tokens with the largest Euclidean norm, largest first; `peak_norm`: their
        norms; `peak_dim`: the dimension of the largest absolute entry of each; `peak_value`: that
        entry, with its sign; `median_norm`: median token norm; `inf_norm`: largest absolute entry
        of the whole sequence (Bondarenko et al. 2023); `kurtosis`: fourth moment over squared
        variance of all n x d entries, 3 for a Gaussian (same source), NaN where `moments` is off.
        """
        found = stacked(self._layers)
        found["median_norm"] = found.pop("norm").median(-1).values
        sums = found.pop("sums")
        found["kurtosis"] = sums.new_full(sums.shape[:1], torch.nan)
        if self.moments:
            found["kurtosis"] = kurtosis(sums, self._width).float()
        return copied(found)


def stacked(layers: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all layers, put together on the device of the first layer."""
    return {
        name: torch.stack([layer[name].to(layers[0][name].device) for layer in layers]) for name in layers[0]
    }


class Meter(Protocol):
    """Takes in the residual stream before one layer after the other."""

    def see(self, hidden: Tensor) -> None: ...


def copied(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """The tensors on the CPU; those of one dtype travel together, for every copy waits for the device."""
    out: dict[str, NDArray[Any]] = {}
    for dtype in {t.dtype for t in tensors.values()}:
        some = {name: t for name, t in tensors.items() if t.dtype == dtype}
        flat = torch.cat([t.flatten() for t in some.values()]).cpu().numpy()
        cuts = np.cumsum([t.numel() for t in some.values()])[:-1]
        pieces = np.split(flat, cuts)
        out |= {name: piece.reshape(t.shape) for (name, t), piece in zip(some.items(), pieces, strict=True)}
    return {name: out[name] for name in tensors}


@contextmanager
def residual_stream(model: Model, *meters: Meter) -> Iterator[None]:
    """Feed `meters` the input of every layer while the block lasts."""

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for meter in meters:
            meter.see(args[0] if args else kwargs["hidden_states"])

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in model.layer_modules]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
