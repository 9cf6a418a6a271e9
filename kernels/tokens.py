"""How large the vectors of a sequence are, token by token.

One pass over the residual stream gives its norms, its largest entries and what its kurtosis
follows from: power sums about a point near the mean are moved to the mean afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TokenSizes(NamedTuple):
    """Of n vectors of d entries, float32 and int64.

    Attributes:
        norm: Euclidean norm. [n]
        peak_token: the vectors with the largest norm, largest first. [extremes]
        peak_norm: their norms. [extremes]
        peak_dim: the dimension of the largest absolute entry of each. [extremes]
        peak_value: that entry, with its sign. [extremes]
        inf_norm: largest absolute entry of all. []
        sums: per vector a point near the mean, and the sums of the second, third and fourth power
            of its entries less that point; [4, 0] where not asked for. The first powers sum to 0
            over each vector, or over all of them where they have the point in common. [4, n]
    """

    norm: Tensor
    peak_token: Tensor
    peak_norm: Tensor
    peak_dim: Tensor
    peak_value: Tensor
    inf_norm: Tensor
    sums: Tensor


def token_sizes(x: Tensor, extremes: int = 8, sums: bool = True) -> TokenSizes:
    """Sizes of the vectors x [n, d], in plain torch; the point of the sums is the mean of all.

    Args:
        x: vectors, in any floating dtype.
        extremes: how many of the largest to name; all, where there are fewer.
        sums: whether to sum up powers.
    """
    x = x.float()
    norm = x.norm(dim=-1)
    top, token = norm.topk(min(extremes, len(norm)))
    dim = x[token].abs().argmax(-1)
    low, high = x.aminmax()
    powers = _powers(x) if sums else x.new_zeros(4, 0)
    return TokenSizes(norm, token, top, dim, x[token, dim], torch.maximum(-low, high), powers)


def _powers(x: Tensor) -> Tensor:
    mean = x.mean(-1).double().mean().float()
    centred = x - mean
    square = centred * centred
    second, fourth = square.sum(-1), (square * square).sum(-1)
    # About the mean of all, the third powers are not needed.
    return torch.stack([mean.expand_as(second), second, torch.zeros_like(second), fourth])


def kurtosis(sums: Tensor, d: int) -> Tensor:
    """Fourth moment over squared variance of all n x d entries, 3 for a Gaussian, in float64. [...]

    The published code (Bondarenko et al. 2023) adds 1e-6 to the squared variance, which takes most of
    it away from entries as small as embeddings are.

    Args:
        sums: `TokenSizes.sums`. [..., 4, n]
        d: entries of a token.
    """
    point, second, third, fourth = sums.double().unbind(-2)
    off = point - point.mean(-1, keepdim=True)
    count = point.shape[-1] * d
    variance = (second + d * off**2).sum(-1) / max(1, count - 1)
    moved = fourth + 4 * off * third + 6 * off**2 * second + d * off**4
    return moved.sum(-1) / count / (variance**2).clamp_min(torch.finfo(torch.float64).tiny)
