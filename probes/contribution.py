"""How large what heads add to the residual stream is, without writing it out.

The norm of x W follows from W W^T alone: for R rows of H heads that spares R x H vectors of the
model's width, most of what a scan would otherwise write to memory and read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Contribution:
    """What the heads of L layers add through W_O. H query heads of G KV heads, D entries each.

    Attributes:
        weights: W_O of each layer, cut into heads. [H, D, hidden] each
        groups: how many KV heads share them.
    """

    weights: Sequence[Tensor]
    groups: int

    @cached_property
    def _gram(self) -> Tensor:
        """W W^T of the heads of each group, side by side, in float32. [L, G, H/G D, H/G D]"""
        rows = [weight.reshape(self.groups, -1, weight.shape[-1]) for weight in self.weights]
        return torch.stack([_product(one, one.mT) for one in rows])

    @cached_property
    def _heads_gram(self) -> Tensor:
        """The blocks of the heads themselves. [L, H, D, D]"""
        heads, dim, _ = self.weights[0].shape
        blocks = self._gram.unflatten(-1, (-1, dim)).unflatten(-3, (-1, dim))
        return blocks.diagonal(dim1=2, dim2=4).permute(0, 1, 4, 2, 3).reshape(-1, heads, dim, dim)

    def of_heads(self, x: Tensor) -> Tensor:
        """Norm of what each head adds, from the heads' outputs [L, H, R, D]. [L, H, R]"""
        return _norms(x, self._heads_gram)

    def of_groups(self, x: Tensor) -> Tensor:
        """Norm of what the heads of each KV group add together, likewise. [L, G, R]"""
        return _norms(x.unflatten(1, (self.groups, -1)).transpose(2, 3).flatten(3), self._gram)

    def of_all(self, x: Tensor) -> Tensor:
        """Norm of what all heads of a layer add together, likewise. [L, R]"""
        together = x.transpose(1, 2).flatten(2)
        added = [_added(one, weight) for one, weight in zip(together, self.weights, strict=True)]
        return torch.stack(added).norm(dim=-1)

    def of_values(self, values: Tensor) -> Tensor:
        """Norm of what each head would add of values of its KV head [L, G, K, D]. [L, H, K]"""
        heads = self.weights[0].shape[0]
        return self.of_heads(values.float().repeat_interleave(heads // self.groups, 1))


def _added(x: Tensor, weight: Tensor) -> Tensor:
    """The sum over heads of their outputs x [R, H D] through W_O [H, D, hidden], in float32. [R, hidden]"""
    weight = weight.flatten(0, 1)
    if not _exact_on_gpu(weight):
        return x @ weight.float()
    most = x.to(weight.dtype)  # what rounding to half precision leaves over goes in beside it
    both = torch.cat([most, (x - most.float()).to(weight.dtype)])
    return _product(both[None], weight[None])[0].unflatten(0, (2, -1)).sum(0)


def _norms(x: Tensor, gram: Tensor) -> Tensor:
    # Rounding can take a vector that W maps to almost nothing below zero.
    return ((x @ gram) * x).sum(-1).clamp_min(0).sqrt()


def _exact_on_gpu(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b in float32; products of half-precision numbers are exact there, so no copy is needed."""
    return torch.bmm(a, b, out_dtype=torch.float32) if _exact_on_gpu(a) else a.float() @ b.float()
