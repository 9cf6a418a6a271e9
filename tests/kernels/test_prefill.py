"""The plain torch prefill against a key-by-key oracle, and its invariants."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from headscope.kernels import dense, mixed_prefill
from headscope.kernels.plan import plan_heads
from headscope.kernels.prefill import _dense_run

SEED = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("shape", "sink", "window", "start", "softcap"),
    [
        pytest.param((1, 4, 2, 30, 30, 8), [2] * 4, [-1, -1, 5, 5], None, None, id="half-streaming"),
        pytest.param((1, 4, 1, 17, 40, 8), [3, 0, 99, 1], [4, 1, 2, 99], None, None, id="chunk,one-kv-head"),
        pytest.param((2, 2, 2, 21, 33, 4), [2, 5], [3, -1], [0, 20], None, id="left-padding"),
        pytest.param((2, 2, 1, 9, 9, 4), [1, 1], [2, -1], [9, 4], None, id="all-padding"),
        pytest.param((1, 2, 1, 25, 25, 8), [0, 0], [1, 1], None, 2.0, id="window-1,softcap"),
        pytest.param(
            (1, 6, 2, 140, 300, 4), [4] * 6, [8, 8, -1, 50, 50, 50], None, None, id="several-blocks"
        ),
    ],
)
def test_prefill_matches_the_oracle(tensors, oracle, shape, sink, window, start, softcap):
    q, k, v = tensors(*shape)
    out, lse = mixed_prefill(q, k, v, sink, window, key_start=start, softcap=softcap, return_lse=True)
    want, want_lse = oracle(q, k, v, sink, window, key_start=start, softcap=softcap)
    assert_close(out, want, rtol=0, atol=1e-12)
    assert_close(lse, want_lse, rtol=0, atol=1e-12)


def test_lse_is_returned_on_request_only(tensors):
    q, k, v = tensors(1, 2, 1, 5, 5, 4)
    assert mixed_prefill(q, k, v, [0, 0], [-1, 2])[1] is None


def test_half_precision_comes_back_in_kind_with_a_float32_lse(tensors):
    q, k, v = tensors(1, 2, 1, 5, 5, 4, torch.bfloat16)
    out, lse = mixed_prefill(q, k, v, [0, 0], [-1, 2], return_lse=True)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_chunking_gives_the_same_result(data):
    keys, sink = data.draw(st.integers(2, 40)), data.draw(st.integers(0, 9))
    window = data.draw(st.sampled_from([-1, 1, 2, 7, 100]))
    cuts = sorted(data.draw(st.sets(st.integers(1, keys - 1), max_size=4)))
    q, k, v = (torch.randn(1, 2, keys, 4, dtype=torch.float64, generator=SEED) for _ in range(3))
    whole, _ = mixed_prefill(q, k, v, [sink, 0], [window, -1])
    edges = [0, *cuts, keys]
    parts = [
        mixed_prefill(q[:, :, a:b], k[:, :, :b], v[:, :, :b], [sink, 0], [window, -1])[0]
        for a, b in pairwise(edges)
    ]
    assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(keys=st.integers(1, 40), sink=st.integers(0, 50), over=st.integers(0, 5))
def test_a_window_over_the_whole_sequence_is_dense(keys, sink, over):
    q, k, v = (torch.randn(1, 1, keys, 4, dtype=torch.float64, generator=SEED) for _ in range(3))
    dense_out, _ = mixed_prefill(q, k, v, [0], [-1])
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert_close(dense_out, want, rtol=0, atol=1e-12)
    out, _ = mixed_prefill(q, k, v, [sink], [keys + over])
    assert_close(out, want, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(pad=st.integers(0, 12), sink=st.integers(0, 5), window=st.integers(1, 9))
def test_left_padding_changes_nothing(pad, sink, window):
    q, k, v = (torch.randn(1, 1, 12, 4, dtype=torch.float64, generator=SEED) for _ in range(3))
    want, _ = mixed_prefill(q, k, v, [sink], [window])
    q, k, v = (torch.nn.functional.pad(x, (0, 0, pad, 0), value=9.0) for x in (q, k, v))
    out, lse = mixed_prefill(q, k, v, [sink], [window], key_start=[pad], return_lse=True)
    assert_close(out[:, :, pad:], want, rtol=0, atol=1e-12)
    assert (out[:, :, :pad] == 0).all() and (lse[:, :, :pad] == -torch.inf).all()


@settings(max_examples=25, deadline=None)
@given(keys=st.integers(1, 40), rows=st.integers(1, 9), sink=st.integers(0, 5), window=st.integers(1, 9))
def test_keys_that_every_window_has_left_may_be_missing(keys, rows, sink, window):
    rows = min(rows, keys)
    q, k, v = (torch.randn(1, 1, keys, 4, dtype=torch.float64, generator=SEED) for _ in range(3))
    want, _ = mixed_prefill(q[:, :, -rows:], k, v, [sink], [window])
    held = [*range(min(sink, keys)), *range(max(sink, keys - window - rows + 1), keys)]
    got, _ = mixed_prefill(q[:, :, -rows:], k[:, :, held], v[:, :, held], [sink], [window])
    assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", [None, [0, 13]], ids=["", "left-padding"])
@pytest.mark.parametrize("rows", [20, 11], ids=["prompt", "chunk"])
@pytest.mark.parametrize(
    "window",
    [
        pytest.param([-1] * 4 + [3] * 4, id="contiguous"),
        pytest.param([-1, -1, 3, 3, -1, -1, 3, 3], id="every-other-group"),
        pytest.param([-1, 3, 3, -1, -1, -1, -1, 3], id="split-groups"),
    ],
)
def test_dense_launches_cover_their_heads_and_no_others(monkeypatch, tensors, rows, start, window):
    """The GPU path's slicing, with a stand-in for the backend: causal from the top left."""

    def backend(name, q, k, v, *, causal, scale, lse):
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = q @ k.mT * scale
        if causal:
            assert q.shape[2] == k.shape[2]
            scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
        return scores.softmax(-1) @ v, scores.logsumexp(-1)

    monkeypatch.setattr(dense, "attention", backend)
    q, k, v = tensors(2, 8, 4, rows, 20, 8)
    plan = plan_heads([0] * 8, window, 4, keys=20)
    out, lse = torch.full_like(q, torch.nan), torch.full(q.shape[:3], torch.nan, dtype=q.dtype)
    for run in plan.dense:
        _dense_run(out, lse, "stand-in", run, q, k, v, 0.3, tuple(start or ()))
    want, want_lse = mixed_prefill(q, k, v, [0] * 8, [-1] * 8, scale=0.3, key_start=start, return_lse=True)
    heads = [h for h, w in enumerate(window) if w == -1]
    others = [h for h, w in enumerate(window) if w != -1]
    assert_close(out[:, heads], want[:, heads], rtol=0, atol=1e-12)
    assert_close(lse[:, heads], want_lse[:, heads], rtol=0, atol=1e-12)
    assert out[:, others].isnan().all() and lse[:, others].isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sink": [0]}, "1 sinks but 2 windows; give one per query head."),
        ({"sink": [0] * 4, "window": [1] * 4}, "The policy has 4 heads, q has 2."),
        ({"sink": [0, -3]}, "A sink size is negative (-3); the smallest is 0."),
        ({"window": [0, 1]}, "A window of 0 sees nothing recent; use at least 1, or -1 for dense."),
        ({"key_start": [7]}, "key_start needs 1 values in 0 ... 6, got (7,)."),
        ({"q": torch.zeros(1, 2, 8, 4)}, "8 queries cannot end a sequence of 6 keys."),
        (
            {"q": torch.zeros(1, 2, 6, 8)},
            "q (1, 2, 6, 8) and k (1, 1, 6, 4) differ in batch or head_dim.",
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_one_clear_sentence(change, message):
    arguments = {
        "q": torch.zeros(1, 2, 6, 4), "k": torch.zeros(1, 1, 6, 4), "v": torch.zeros(1, 1, 6, 4),
        "sink": [0, 0], "window": [-1, 2],
    } | change  # fmt: skip
    with pytest.raises(ValueError) as error:
        mixed_prefill(**arguments)
    assert str(error.value) == message
