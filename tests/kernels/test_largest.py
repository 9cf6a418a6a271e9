"""The few largest entries of long vectors, against a plain search."""

from __future__ import annotations

import pytest
import torch

from headscope.kernels.largest import in_blocks, largest


@pytest.mark.parametrize("length", [1, 7, 128, 129, 1000, 5000])
@pytest.mark.parametrize("count", [1, 8, 130])
def test_blocks_find_what_a_plain_search_finds(length: int, count: int) -> None:
    x = torch.randn(3, 2, length, generator=torch.Generator().manual_seed(length))
    values, index = in_blocks(x, min(count, length))
    want = x.topk(min(count, length), -1)
    assert torch.equal(values, want.values)
    assert torch.equal(index, want.indices)
    assert torch.equal(largest(x, count)[0], want.values)


def test_ties_and_hidden_entries_are_named_once_and_within_the_vector() -> None:
    x = torch.zeros(1, 300)
    values, index = in_blocks(x, 20)
    assert values.eq(0).all()
    assert len(set(index[0].tolist())) == 20
    hidden = torch.full((1, 130), -torch.inf)
    hidden[0, 4] = 1.0
    values, index = in_blocks(hidden, 3)
    assert values[0].tolist() == [1.0, -torch.inf, -torch.inf]
    assert index[0, 0] == 4
    assert index.max() < 130
