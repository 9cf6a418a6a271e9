"""Merging partial attention by log-sum-exp is exact, associative and has a neutral element."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from headscope.kernels import merge

SEED = torch.Generator().manual_seed(0)


def part(scores, values):
    return scores.softmax(-1) @ values, scores.logsumexp(-1)


def random_parts(sizes, spread=1.0):
    scores = torch.randn(2, 3, sum(sizes), dtype=torch.float64, generator=SEED) * spread
    values = torch.randn(2, sum(sizes), 4, dtype=torch.float64, generator=SEED)
    pieces = [part(s, v) for s, v in zip(scores.split(sizes, -1), values.split(sizes, 1), strict=True)]
    return pieces, part(scores, values)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([0.1, 1, 30, 300]))
def test_parts_of_a_row_make_the_row(sizes, spread):
    parts, (out, lse) = random_parts(sizes, spread)
    merged, total = merge(parts)
    assert_close(merged, out, rtol=1e-10, atol=1e-11)
    assert_close(total, lse, rtol=1e-12, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_merge_is_associative(a, b, c):
    (x, y, z), _ = random_parts([a, b, c])
    left, right = merge([merge([x, y]), z]), merge([x, merge([y, z])])
    assert_close(left[0], right[0], rtol=0, atol=1e-12)
    assert_close(left[1], right[1], rtol=0, atol=1e-12)


def test_a_part_without_keys_is_neutral_even_if_it_holds_nan():
    (x, y), _ = random_parts([3, 4])
    empty = torch.full_like(x[0], torch.nan), torch.full_like(x[1], -torch.inf)
    for got, want in zip(merge([empty, x, empty, y]), merge([x, y]), strict=True):
        assert_close(got, want, rtol=0, atol=0)
    out, lse = merge([empty, empty])
    assert (out == 0).all() and (lse == -torch.inf).all()


def test_the_kernel_agrees(interpreted):
    from headscope.kernels.merge_triton import merge_pair

    (x, y), _ = random_parts([3, 40])
    x, y = (tuple(t.float()[:, None] for t in pair) for pair in (x, y))
    x[1][0, 0, 0], y[1][1, 0, 1], x[1][1, 0, 2], y[1][1, 0, 2] = (-torch.inf,) * 4
    out, lse = torch.full_like(x[0], torch.nan), torch.full_like(x[1], torch.nan)
    out, lse = interpreted(merge_pair, out, lse, x, y)
    want, want_lse = merge([x, y])
    assert_close(out, want, rtol=0, atol=1e-6)
    assert_close(lse, want_lse, rtol=0, atol=1e-6)


def test_bad_parts_are_refused():
    with pytest.raises(ValueError, match=r"^There is nothing to merge"):
        merge([])
    with pytest.raises(ValueError, match=r"^Parts must share one shape"):
        merge([(torch.zeros(2, 3, 4), torch.zeros(2, 3)), (torch.zeros(2, 2, 4), torch.zeros(2, 2))])
