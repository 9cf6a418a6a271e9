"""`kernels.tokens.token_sizes` on a GPU: every vector is read once."""

# Triton's language has no static types: a kernel's arguments are pointers and scalars.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.backend import on_its_device
from headscope.kernels.largest import largest
from headscope.kernels.tokens import TokenSizes


@triton.jit
def _sizes(x, out, where, stride, tokens, width, W: tl.constexpr, SUMS: tl.constexpr):
    token, dim = tl.program_id(0).to(tl.int64), tl.arange(0, W)
    real = dim < width
    y = tl.load(x + token * stride + dim, mask=real, other=0.0).to(tl.float32)
    size = tl.where(real, tl.abs(y), -1.0)
    at = tl.min(tl.where(size == tl.max(size, 0), dim, width - 1), 0)  # NaN equals nothing
    out += token
    tl.store(out, tl.sqrt(tl.sum(y * y, 0)))
    tl.store(out + tokens, tl.load(x + token * stride + at).to(tl.float32))
    tl.store(where + token, at)
    if SUMS:
        mean = tl.sum(y, 0) / width
        off = tl.where(real, y - mean, 0.0)
        square = off * off
        tl.store(out + 2 * tokens, mean)
        tl.store(out + 3 * tokens, tl.sum(square, 0))
        tl.store(out + 4 * tokens, tl.sum(square * off, 0))
        tl.store(out + 5 * tokens, tl.sum(square * square, 0))


@on_its_device
def fused_token_sizes(x: Tensor, extremes: int = 8, sums: bool = True) -> TokenSizes:
    """Arguments and result of `token_sizes`; the point of each vector's sums is its own mean."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    n, d = x.shape
    out = torch.empty(6 if sums else 2, n, device=x.device)
    where = torch.empty(n, dtype=torch.int64, device=x.device)
    width = triton.next_power_of_2(d)
    _sizes[(n,)](x, out, where, x.stride(0), n, d, W=width, SUMS=sums, num_warps=4)
    norm, peak = out[0], out[1]
    top, token = largest(norm, extremes)
    powers = out[2:] if sums else out.new_zeros(4, 0)
    return TokenSizes(norm, token, top, where[token], peak[token], peak.abs().amax(), powers)
