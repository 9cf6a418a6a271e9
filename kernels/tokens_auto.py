"""Sizes of the vectors of a sequence, by the fastest implementation that can run them."""

from __future__ import annotations

from torch import Tensor

from headscope.kernels.backend import use_triton
from headscope.kernels.tokens import TokenSizes
from headscope.kernels.tokens import token_sizes as reference


def token_sizes(x: Tensor, extremes: int = 8, sums: bool = True) -> TokenSizes:
    """`kernels.tokens.token_sizes`, one read of `x` on a GPU and plain torch everywhere else."""
    if not use_triton(x):
        return reference(x, extremes, sums)
    from headscope.kernels.tokens_triton import fused_token_sizes

    return fused_token_sizes(x, extremes, sums)
