"""Massive activations: dimensions of the residual stream that are huge in a few tokens (Sun et al. 2024).

The tokens that carry them draw attention: the first token as a rule, and in vision-language models
some image tokens that show nothing (Kang et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.residual import copied, stacked

DIMENSIONS = 8  # of each layer that are kept: published models have two or three that matter


def relative_size(hidden: Tensor) -> Tensor:
    """|x_d| over the root mean square of x, for every token and dimension. 0 ... sqrt(d). [..., d]"""
    x = hidden.float()
    return x.abs() / x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


@dataclass
class MassiveMeter:
    """A meter for `residual_stream`: the dimensions that are largest in text, in every token.

    Attributes:
        text: which of the n tokens are text. [n]
    """

    text: Tensor
    _layers: list[dict[str, Tensor]] = field(default_factory=list, repr=False)

    def see(self, hidden: Tensor) -> None:
        """Take in the residual stream before one layer. [1, n, d]"""
        size = relative_size(hidden.detach()[0])
        text = self.text.to(size.device)
        largest = size.masked_fill(~text[:, None], 0.0).amax(0).topk(min(DIMENSIONS, size.shape[-1]))
        self._layers.append({"massive_dim": largest.indices, "massive_size": size[:, largest.indices].T})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """`massive_dim` [L, k]: the k dimensions whose largest `relative_size` over the text tokens is
        largest in a layer's input, and `massive_size` [L, k, n]: that size in every token."""
        found = stacked(self._layers)
        return copied(found | {"massive_size": found["massive_size"].float()})
