"""Head plans: every head is served once, by few launches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.kernels.plan import EVERYTHING, plan_heads, progressions


@pytest.mark.parametrize(
    ("values", "runs"),
    [
        ([], []),
        ([5], [range(5, 6)]),
        ([0, 1, 2, 3], [range(4)]),
        ([0, 2, 4, 6], [range(0, 8, 2)]),
        ([0, 1, 4, 6], [range(2), range(4, 8, 2)]),
        ([0, 1, 2, 3, 8, 9], [range(4), range(8, 10)]),
    ],
)
def test_progressions(values, runs):
    assert progressions(values) == runs


@given(st.sets(st.integers(0, 40), max_size=20))
def test_progressions_partition_their_values(values):
    assert sorted(v for run in progressions(sorted(values)) for v in run) == sorted(values)


@given(st.sampled_from([1, 2, 4]), st.lists(st.sampled_from([-1, 1, 9]), min_size=8, max_size=8))
def test_every_head_is_served_once(kv_heads, windows):
    plan, size = plan_heads([2] * 8, windows, kv_heads), 8 // kv_heads
    dense = [g * size + o for run in plan.dense for g in run.kv for o in run.offsets]
    assert sorted([*dense, *plan.streaming]) == list(range(8))
    assert sorted(dense) == [h for h, w in enumerate(windows) if w == -1]


def test_a_group_holds_what_its_most_demanding_head_needs():
    plan = plan_heads([4, 1, 9, 2], [8, 16, -1, 3], 2)
    assert plan.group_sink == (4, 2)
    assert plan.group_window == (16, EVERYTHING)
    assert (plan.dense_groups, plan.streaming_groups) == ((1,), (0,))


def test_windows_that_reach_every_key_are_dense_for_short_sequences():
    assert plan_heads([4, 4], [8, 20], 2, keys=12).streaming == ()
    assert plan_heads([4, 4], [8, 20], 2, keys=13).streaming == (0,)
    assert plan_heads([4, 4], [8, 20], 2, keys=25).streaming == (0, 1)


def test_equal_policies_share_one_plan():
    assert plan_heads([1, 1], [2, -1], 1) is plan_heads((1, 1), (2, -1), 1, keys=100)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"^3 query heads cannot share 2 KV heads evenly\.$"):
        plan_heads([0] * 3, [1] * 3, 2)
