"""The Triton prefill kernel, interpreted, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from headscope.kernels.plan import plan_heads
from headscope.kernels.reference import attend

TOLERANCE = 3e-6  # float32 arithmetic on unit normal inputs; outputs are at most about 3


@pytest.mark.parametrize(
    ("shape", "sink", "window", "start", "softcap"),
    [
        pytest.param((1, 4, 2, 100, 100, 64), [7] * 4, [20, 20, 33, 33], None, None, id="100-keys"),
        pytest.param((1, 2, 1, 70, 70, 64), [500, 3], [5, 5], None, None, id="sink-over-n"),
        pytest.param((1, 2, 2, 65, 65, 64), [0, 2], [1, 1], None, None, id="window-1,sink-0"),
        pytest.param((1, 3, 1, 40, 90, 96), [4] * 3, [9, 64, 30], None, None, id="chunk,d96,one-kv-head"),
        pytest.param((2, 2, 1, 37, 90, 64), [4, 9], [6, 40], [0, 50], None, id="left-padding"),
        pytest.param((2, 1, 1, 20, 20, 64), [4], [6], [20, 7], None, id="all-padding"),
        pytest.param((1, 2, 2, 130, 130, 128), [64] * 2, [65, 10], None, 3.0, id="d128,softcap"),
        pytest.param((1, 2, 1, 33, 33, 256), [2] * 2, [8, 3], None, None, id="d256"),
        pytest.param((1, 6, 2, 1, 50, 80), [2] * 6, [8] * 6, None, None, id="one-query,d80,groups-of-3"),
    ],
)
@pytest.mark.parametrize("every", [False, True], ids=["streaming", "with-dense"])
def test_prefill_kernel(interpreted, tensors, shape, sink, window, start, softcap, every):
    from headscope.kernels.prefill_triton import stream_prefill

    q, k, v = tensors(*shape, dtype=torch.float32)
    window = [-1, *window[1:]] if every else window
    plan = plan_heads(sink, window, shape[2])
    options = {"scale": shape[-1] ** -0.5, "softcap": softcap}
    out, lse = interpreted(stream_prefill, q, k, v, plan, starts=tuple(start or ()), every=every, **options)
    padding = torch.tensor(start) if start else None
    want, want_lse = attend(q.double(), k.double(), v.double(), plan, start=padding, **options)
    assert_close(out.double(), want, rtol=0, atol=TOLERANCE)
    assert_close(lse.double(), want_lse, rtol=0, atol=TOLERANCE)


def test_transposed_layouts_and_untouched_heads(interpreted, tensors):
    from headscope.kernels.prefill_triton import stream_prefill

    q, k, v = (
        x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors(1, 4, 2, 50, 50, 64, torch.float32)
    )
    plan = plan_heads([3] * 4, [-1, 8, 8, -1], 2)
    out, lse = interpreted(stream_prefill, q, k, v, plan, scale=0.1)
    want, _ = attend(q.double(), k.double(), v.double(), plan, scale=0.1)
    assert_close(out[:, 1:3].double(), want[:, 1:3], rtol=0, atol=TOLERANCE)
    assert out[:, [0, 3]].isnan().all() and lse[:, [0, 3]].isnan().all()


def test_chunks_agree_bit_for_bit_where_tiles_do(interpreted, tensors):
    from headscope.kernels.prefill_triton import stream_prefill

    q, k, v = tensors(1, 1, 1, 192, 192, 64, torch.float32)
    plan = plan_heads([5], [40], 1)
    whole, _ = interpreted(stream_prefill, q, k, v, plan, scale=0.1)
    parts = [
        interpreted(
            stream_prefill,
            q[:, :, a:b].clone(),
            k[:, :, :b].clone(),
            v[:, :, :b].clone(),
            plan,
            scale=0.1,
        )[0]
        for a, b in ((0, 64), (64, 192))
    ]
    assert torch.equal(torch.cat(parts, 2), whole)
