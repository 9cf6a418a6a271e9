"""How large what heads add to the residual stream is, without writing it out.

The norm of x W follows from W W^T alone: for R rows of H heads that spares R x H vectors of the
model's width, most of what a scan would otherwise write to memory and read again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Contribution:
    """What a layer's heads add through W_O. H query heads of G KV heads, D entries each.

    Attributes:
        weight: W_O cut into heads. [H, D, hidden]
        groups: how many KV heads share them.
    """

    weight: Tensor
    groups: int

    @cached_property
    def _gram(self) -> Tensor:
        """W W^T of the heads of each group, side by side, in float32. [G, H/G D, H/G D]"""
        rows = self.weight.reshape(self.groups, -1, self.weight.shape[-1])
        return _product(rows, rows.mT)

    @cached_property
    def _heads_gram(self) -> Tensor:
        """The blocks of the heads themselves. [H, D, D]"""
        heads, dim, _ = self.weight.shape
        blocks = self._gram.view(self.groups, heads // self.groups, dim, heads // self.groups, dim)
        return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).reshape(heads, dim, dim)

    def of_heads(self, x: Tensor) -> Tensor:
        """Norm of what each head adds, from the heads' outputs [H, R, D]. [H, R]"""
        return _norms(x, self._heads_gram)

    def of_groups(self, x: Tensor) -> Tensor:
        """Norm of what the heads of each KV group add together, likewise. [G, R]"""
        return _norms(x.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(2), self._gram)

    def of_all(self, x: Tensor) -> Tensor:
        """Norm of what all heads add together, likewise. [R]"""
        together = x.transpose(0, 1).flatten(1)[None]
        weight = self.weight.flatten(0, 1)[None]
        if _exact_on_gpu(weight):  # what rounding to half precision leaves over goes in a second time
            most = together.to(weight.dtype)
            rest = (together - most.float()).to(weight.dtype)
            added = _product(most, weight) + _product(rest, weight)
        else:
            added = together @ weight.float()
        return added[0].norm(dim=-1)

    def of_values(self, values: Tensor) -> Tensor:
        """Norm of what each head would add of values of its KV head [G, K, D]. [H, K]"""
        return self.of_heads(values.float().repeat_interleave(self.weight.shape[0] // self.groups, 0))


def _norms(x: Tensor, gram: Tensor) -> Tensor:
    # Rounding can take a vector that W maps to almost nothing below zero.
    return ((x @ gram) * x).sum(-1).clamp_min(0).sqrt()


def _exact_on_gpu(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b in float32; products of half-precision numbers are exact there, so no copy is needed."""
    return torch.bmm(a, b, out_dtype=torch.float32) if _exact_on_gpu(a) else a.float() @ b.float()
