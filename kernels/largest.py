"""The few largest entries of long vectors, without a sort of all of them."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 128
_SHORT = 1 << 12  # up to which one plain search is as fast


def largest(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Like `x.topk(count, -1)`, with fewer passes over long vectors; all entries where there are fewer.

    The largest entries lie in the blocks with the largest maxima, as many blocks as entries. Of equal
    entries any may be named.

    Args:
        x: floating point, without NaN. [..., n]
        count: how many, at least 1.

    Returns:
        The values, largest first, and their indices. [..., min(count, n)] each
    """
    length = x.shape[-1]
    count = min(count, length)
    if length <= _SHORT or not x.is_cuda:
        return x.topk(count, -1)
    return in_blocks(x, count)


def in_blocks(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`largest` of vectors of any length, in blocks."""
    lacking = -x.shape[-1] % _BLOCK
    padded = torch.nn.functional.pad(x, (0, lacking), value=-torch.inf) if lacking else x
    blocks = padded.unflatten(-1, (-1, _BLOCK))
    best = blocks.amax(-1).topk(min(count, blocks.shape[-2]), -1).indices
    candidates = blocks.gather(-2, best[..., None].expand(*best.shape, _BLOCK)).flatten(-2)
    values, where = candidates.topk(count, -1)
    index = best.gather(-1, where // _BLOCK) * _BLOCK + where % _BLOCK
    return values, index.clamp_max(x.shape[-1] - 1)  # padding ties with -inf
