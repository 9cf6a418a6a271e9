"""Join attention over disjoint key sets, exactly, from their outputs and log-sum-exps.

With l = log(sum_i exp(l_i)), the softmax over the union is `sum_i exp(l_i - l) out_i` (the identity
behind flash attention, Dao et al. 2022). Merging is associative, so chunks can be folded in any
order; a part that saw no key (out 0, lse -inf) is the neutral element.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headscope.kernels.backend import use_triton


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Attention over the union of disjoint key sets.

    Args:
        parts: (out [..., D], natural log-sum-exp [...]) of each set, all of one shape.

    Returns:
        (out, lse) of the union: out in the first part's dtype, lse in float32 or wider.

    Raises:
        ValueError: no parts, or parts whose shapes differ.
    """
    if not parts:
        raise ValueError("There is nothing to merge: give at least one (out, lse) pair.")
    shapes = {(*out.shape[:-1], lse.shape, out.shape[-1]) for out, lse in parts}
    if len(shapes) > 1 or parts[0][0].shape[:-1] != parts[0][1].shape:
        raise ValueError(f"Parts must share one shape, out [..., D] and lse [...]; got {shapes}.")
    outs = torch.stack([out for out, _ in parts])
    lses = torch.stack([lse for _, lse in parts])
    wide = torch.promote_types(lses.dtype, torch.float32)
    lse = torch.logsumexp(lses.to(wide), 0)
    weights = (lses.to(wide) - lse.masked_fill(lse == -torch.inf, 0)).exp()
    # A zero weight must silence its part whatever it holds.
    mixed = torch.where(weights[..., None] > 0, outs.to(wide) * weights[..., None], 0)
    return mixed.sum(0).to(outs.dtype), lse


def merge_into(out: Tensor, lse: Tensor | None, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
    """Write the merge of two parts [B, H, N, D] into `out` and, unless None, `lse` [B, H, N]."""
    if use_triton(out):
        from headscope.kernels.merge_triton import merge_pair

        merge_pair(out, lse, a, b)
        return
    mixed, total = merge([a, b])
    out.copy_(mixed)
    if lse is not None:
        lse.copy_(total)
