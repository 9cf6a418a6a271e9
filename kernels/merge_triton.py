"""Merge two attention partials in one pass over memory; `kernels.merge` is its reference."""

# Triton's language has no static types: a kernel's arguments are pointers and scalars.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.backend import on_its_device

ROWS = 16


@triton.jit
def _merge_pair(
    out, lse, a, b, a_lse, b_lse,
    out_b, out_h, out_n, lse_b, lse_h, lse_n, a_b, a_h, a_n, b_b, b_h, b_n,
    al_b, al_h, al_n, bl_b, bl_h, bl_n,
    heads, rows,
    D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr, LSE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    dim = tl.arange(0, DP)
    real = row < rows
    cell = real[:, None] & (dim < D)[None, :]
    row = row.to(tl.int64)

    la = tl.load(a_lse + batch * al_b + head * al_h + row * al_n, mask=real, other=0.0)
    lb = tl.load(b_lse + batch * bl_b + head * bl_h + row * bl_n, mask=real, other=0.0)
    top = tl.maximum(la, lb)
    top = tl.where(top == float("-inf"), 0.0, top)  # neither part saw a key
    wa, wb = tl.exp(la - top), tl.exp(lb - top)
    total = wa + wb
    share = tl.where(total > 0, 1.0 / total, 0.0)
    wa, wb = wa * share, wb * share

    at = row[:, None]
    xa = tl.load(
        a + batch * a_b + head * a_h + at * a_n + dim[None, :],
        mask=cell & (wa > 0)[:, None],
        other=0.0,
    )
    xb = tl.load(
        b + batch * b_b + head * b_h + at * b_n + dim[None, :],
        mask=cell & (wb > 0)[:, None],
        other=0.0,
    )
    mixed = xa.to(tl.float32) * wa[:, None] + xb.to(tl.float32) * wb[:, None]
    tl.store(
        out + batch * out_b + head * out_h + at * out_n + dim[None, :],
        mixed.to(out.dtype.element_ty),
        mask=cell,
    )
    if LSE:
        joined = tl.where(total > 0, top + tl.log(total), float("-inf"))
        tl.store(lse + batch * lse_b + head * lse_h + row * lse_n, joined, mask=real)


@on_its_device
def merge_pair(
    out: Tensor, lse: Tensor | None, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Write the merge of two parts [B, H, N, D], last dimension contiguous, to `out` and `lse`."""
    batch, heads, rows, dim = out.shape
    (xa, la), (xb, lb) = a, b
    total = la if lse is None else lse
    grid = (triton.cdiv(rows, ROWS), batch * heads)
    _merge_pair[grid](
        out, total, xa, xb, la, lb,
        *out.stride()[:3], *total.stride(), *xa.stride()[:3], *xb.stride()[:3],
        *la.stride(), *lb.stride(), heads, rows,
        D=dim, DP=triton.next_power_of_2(dim), BLOCK=ROWS, LSE=lse is not None, num_warps=4,
    )  # fmt: skip
    return out, lse
