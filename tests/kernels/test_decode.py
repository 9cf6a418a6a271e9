"""Decode over one cache and over two, plain torch and Triton (interpreted)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from headscope.kernels import cached_decode, mixed_decode
from headscope.kernels.decode import attend_stores
from headscope.kernels.place import place_reference
from headscope.kernels.plan import plan_heads
from headscope.kernels.ring import ring_position, ring_slot

TOLERANCE = 3e-6  # float32 arithmetic on unit normal inputs; outputs are at most about 3

CASES = [
    pytest.param((1, 4, 2, 1, 500, 64), [3] * 4, [7, 1, -1, -1], None, None, id="half-dense"),
    pytest.param(
        (2, 4, 2, 3, 190, 96),
        [3, 50, 0, 5],
        [7, 1, -1, -1],
        [0, 90],
        None,
        id="3-queries,d96,padding",
    ),
    pytest.param(
        (1, 4, 2, 2, 270, 128),
        [3, 9, 0, 2],
        [7, 1, -1, 5],
        None,
        5.0,
        id="split-group,d128,softcap",
    ),
    pytest.param((1, 1, 1, 1, 33, 256), [40], [1], None, None, id="one-head,sink-over-n,d256"),
    pytest.param(
        (1, 6, 2, 24, 200, 64), [2] * 6, [4, 5, 6, 99, 8, 9], None, None, id="all-streaming,72-rows"
    ),
    pytest.param((2, 8, 1, 1, 600, 64), [2] * 8, [-1] * 8, [0, 600], None, id="all-dense,one-kv-head,empty"),
    pytest.param((1, 2, 2, 1, 900, 64), [9, 8], [700, 3], None, None, id="window-over-one-program"),
]


def stores(k, v, plan, length, start, spare=0, room=1):
    """The two caches as a writer fills them, one token after the other."""
    dense = [x[:, list(plan.dense_groups)] for x in (k, v)]
    dense = [torch.nn.functional.pad(x, (0, 0, 0, spare), value=7.0) for x in dense]
    groups = plan.streaming_groups
    needs = [plan.group_sink[g] + plan.group_window[g] + room - 1 for g in groups]
    size = max(needs, default=0) + spare
    stream = [k.new_full((k.shape[0], len(groups), size, k.shape[3]), 7.0) for _ in range(2)]
    for b in range(k.shape[0]):
        for i, g in enumerate(groups):
            sink, ring = plan.group_sink[g], size - plan.group_sink[g]
            for r in range(length - start[b]):
                slot = r if r < sink else sink + (r - sink) % ring
                for store, full in zip(stream, (k, v), strict=True):
                    store[b, i, slot] = full[b, g, start[b] + r]
    return tuple(dense) if plan.dense_groups else None, tuple(stream) if groups else None


@pytest.mark.parametrize("spare", [0, 5], ids=["", "spare-slots"])
@pytest.mark.parametrize(("shape", "sink", "window", "start", "softcap"), CASES)
def test_two_caches_equal_one(tensors, oracle, shape, sink, window, start, softcap, spare):
    (q, k, v), length = tensors(*shape), shape[4]
    want, want_lse = oracle(q, k, v, sink, window, key_start=start, softcap=softcap)
    options = {"key_start": start, "softcap": softcap, "return_lse": True}
    dense, stream = stores(
        k, v, plan_heads(sink, window, shape[2]), length, start or [0] * 9, spare, shape[3]
    )
    results = [
        mixed_decode(q, k, v, sink, window, **options),
        cached_decode(q, dense, stream, sink, window, length=length, kv_heads=shape[2], **options),
    ]
    for out, lse in results:
        assert_close(out, want, rtol=0, atol=1e-12)
        assert_close(lse, want_lse, rtol=0, atol=1e-12)


def placed(fresh, dense, stream, plan, clock, starts):
    """The stores after `fused_place`, which changes what another process cannot see."""
    from headscope.kernels.place_triton import fused_place

    fused_place(*fresh, dense, stream, plan, clock, starts)
    return dense, stream


@pytest.mark.parametrize(("shape", "sink", "window", "start", "softcap"), CASES)
def test_one_new_position_is_placed(interpreted, tensors, shape, sink, window, start, softcap):
    """The clock's place, in plain torch and in the kernel, is where a writer would put the last key."""
    (_, k, v), length = tensors(*shape, dtype=torch.float32), shape[4]
    plan = plan_heads(sink, window, shape[2])
    begins = start or [0] * 9
    want = stores(k, v, plan, length, begins)
    if max(begins[: shape[0]]) == length:
        return  # a sequence of nothing but padding has no new key
    padding = torch.tensor(start, dtype=torch.int32) if start else None
    fresh, clock = (k[:, :, -1:], v[:, :, -1:]), torch.tensor([length - 1])

    def before():
        dense, stream = stores(k, v, plan, length - 1, begins)
        for x in dense or ():
            x[:, :, -1] = 7.0
        return dense, stream

    plain = before()
    place_reference(fresh, *plain, plan, clock, padding)
    fused = interpreted(placed, fresh, *before(), plan, clock, padding)
    for got in (plain, fused):
        for a, b in zip(got, want, strict=True):
            assert (a is None) == (b is None)
            for x, y in zip(a or (), b or (), strict=True):
                assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["one-cache", "two-caches", "clock"])
@pytest.mark.parametrize(("shape", "sink", "window", "start", "softcap"), CASES)
def test_decode_kernel(interpreted, tensors, layout, shape, sink, window, start, softcap):
    from headscope.kernels.decode_triton import split_decode

    q, k, v = tensors(*shape, dtype=torch.float32)
    plan, length = plan_heads(sink, window, shape[2]), shape[4]
    padding = torch.tensor(start, dtype=torch.int32) if start else None
    options = {"starts": padding, "scale": 0.2, "softcap": softcap}
    dense, stream = stores(k, v, plan, length, start or [0] * 9, 3, shape[3])
    held = [None if s is None else tuple(x.double() for x in s) for s in (dense, stream)]
    want, want_lse = attend_stores(q.double(), *held, plan, length, **options)
    pair = ((k, v), None) if layout == "one-cache" or stream is None else (dense, stream)
    # Small tiles, so that a short sequence is cut into many splits.
    tuning = {"BN": 16, "num_warps": 4, "num_stages": 2, "waves": 1}
    seen = torch.tensor([length]) if layout == "clock" else length
    out, lse = interpreted(split_decode, q, *pair, plan, seen, tuning=tuning, **options)
    assert_close(out.double(), want, rtol=0, atol=TOLERANCE)
    assert_close(lse.double(), want_lse, rtol=0, atol=TOLERANCE)


@given(seen=st.integers(0, 60), sink=st.integers(0, 6), ring=st.integers(1, 9))
def test_ring_positions_are_what_a_writer_left(seen, sink, ring):
    slots = [-1] * (sink + ring)
    for position in range(seen):
        slots[int(ring_slot(torch.tensor(position), sink, sink + ring))] = position
    assert ring_position(torch.tensor([seen]), sink, sink + ring)[0].tolist() == slots


@pytest.mark.parametrize(
    ("dense", "stream", "message"),
    [
        (
            (1, 1, 20, 4),
            (1, 1, 4, 4),
            "The stream cache needs k, v of at least (1, 1, 5, 4) but holds",
        ),
        (
            (1, 1, 19, 4),
            (1, 1, 5, 4),
            "The dense cache needs k, v of at least (1, 1, 20, 4) but holds",
        ),
        (
            (1, 2, 20, 4),
            (1, 1, 5, 4),
            "The dense cache needs k, v of at least (1, 1, 20, 4) but holds",
        ),
        (
            None,
            (1, 1, 5, 4),
            "The dense cache needs k, v of at least (1, 1, 20, 4) but is missing.",
        ),
    ],
    ids=["small-ring", "short-dense", "two-groups-for-one", "no-dense"],
)
def test_caches_that_do_not_fit_are_refused(dense, stream, message):
    pair = [None if s is None else (torch.zeros(s), torch.zeros(s)) for s in (dense, stream)]
    with pytest.raises(ValueError) as error:
        cached_decode(torch.zeros(1, 2, 1, 4), *pair, [2, 0], [3, -1], length=20, kv_heads=2)
    assert str(error.value).startswith(message)
