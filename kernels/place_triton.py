"""Store one new position in one launch; `kernels.place.place_reference` is its reference."""

# Triton's language has no static types: a kernel's arguments are pointers and scalars.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.backend import on_its_device
from headscope.kernels.plan import HeadPlan


@triton.jit
def _place(
    k, v, dense_k, dense_v, stream_k, stream_v, clock, slots, group_sinks, group_windows, starts,
    k_b, k_h, v_b, v_h, dk_b, dk_h, dk_n, dv_b, dv_h, dv_n, sk_b, sk_h, sk_n, sv_b, sv_h, sv_n, capacity,
    D: tl.constexpr, DP: tl.constexpr, START: tl.constexpr,
):  # fmt: skip
    g, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    position, slot = tl.load(clock).to(tl.int64), tl.load(slots + g).to(tl.int64)
    dim = tl.arange(0, DP)
    real = dim < D
    x = tl.load(k + batch * k_b + g.to(tl.int64) * k_h + dim, mask=real)
    y = tl.load(v + batch * v_b + g.to(tl.int64) * v_h + dim, mask=real)
    if tl.load(group_windows + g) == 1 << 30:
        tl.store(dense_k + batch * dk_b + slot * dk_h + position * dk_n + dim, x, mask=real)
        tl.store(dense_v + batch * dv_b + slot * dv_h + position * dv_n + dim, y, mask=real)
    else:
        if START:
            position -= tl.load(starts + batch)
        sink = tl.load(group_sinks + g).to(tl.int64)
        lap = sink + (position - sink) % tl.maximum(capacity - sink, 1)
        at = tl.where(position < sink, position, lap)
        tl.store(stream_k + batch * sk_b + slot * sk_h + at * sk_n + dim, x, mask=real)
        tl.store(stream_v + batch * sv_b + slot * sv_h + at * sv_n + dim, y, mask=real)


@on_its_device
def fused_place(
    k: Tensor,
    v: Tensor,
    dense: tuple[Tensor, Tensor] | None,
    stream: tuple[Tensor, Tensor] | None,
    plan: HeadPlan,
    clock: Tensor,
    starts: Tensor | None,
) -> None:
    """Shapes and meaning as in `place`; every vector of the stores is contiguous."""
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    stores = [x for store in (dense or stream, stream or dense) for x in store or ()]
    table, (batch, groups, _, dim) = plan.on(k.device), k.shape
    _place[(groups, batch)](
        k, v, *stores, clock, table.slot, table.group_sink, table.group_window,
        clock if starts is None else starts, *k.stride()[:2], *v.stride()[:2],
        *(s for x in stores for s in x.stride()[:3]), stores[2].shape[2],
        D=dim, DP=triton.next_power_of_2(dim), START=starts is not None, num_warps=1,
    )  # fmt: skip
