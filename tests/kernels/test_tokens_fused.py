"""Sizes of tokens: fused, interpreted, against plain torch, and the kurtosis against float64."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from headscope.kernels.tokens import TokenSizes, kurtosis, token_sizes


def stream(n: int, d: int) -> torch.Tensor:
    """A residual stream with a mean, and with a few massive entries."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(n * d)) + 0.3
    x[0, 5], x[n // 2, d - 1] = 800.0, -350.0
    return x


@pytest.mark.parametrize(("n", "d"), [(1, 7), (23, 64), (40, 100)])
@pytest.mark.parametrize("sums", [True, False])
def test_fused_equals_plain(interpreted, n: int, d: int, sums: bool) -> None:
    from headscope.kernels.tokens_triton import fused_token_sizes

    got, want = interpreted(fused_token_sizes, stream(n, d), 8, sums), token_sizes(stream(n, d), 8, sums)
    for name in TokenSizes._fields[:-1]:
        assert_close(getattr(got, name), getattr(want, name), rtol=1e-5, atol=1e-5, msg=name)
    assert got.sums.shape == want.sums.shape
    if sums:
        assert_close(kurtosis(got.sums, d), kurtosis(want.sums, d), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 0.01])
def test_kurtosis_is_the_fourth_moment_over_squared_variance(size: float) -> None:
    """Of the residual stream, and of embeddings as small as those it begins with."""
    x = stream(50, 40).double() * size
    fourth = ((x - x.mean()) ** 4).mean()
    got = kurtosis(token_sizes(x).sums, x.shape[1])
    assert_close(got, fourth / x.var() ** 2, rtol=1e-5, atol=0)
    assert kurtosis(token_sizes(x * 0).sums, x.shape[1]) == 0
