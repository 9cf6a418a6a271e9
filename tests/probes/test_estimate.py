"""Means over prompts with their errors, on numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from headscope.probes import over_prompts

NAN = float("nan")


def test_the_error_is_the_larger_of_scatter_and_sampling() -> None:
    """Column 0: prompts differ by 2, rows by nothing. Column 1: the reverse."""
    means = [np.array([[1.0, 1.0]]), np.array([[3.0, 1.0]])]
    variances = [np.array([[0.0, 0.5]]), np.array([[0.0, 1.5]])]
    found = over_prompts(means, variances)
    assert found.value.tolist() == [[2.0, 1.0]]
    assert found.se.tolist() == [[pytest.approx(1.0), pytest.approx(np.sqrt(2.0) / 2)]]
    assert over_prompts(means).se.tolist() == [[pytest.approx(1.0), 0.0]]


def test_prompts_that_say_nothing_of_a_head_are_left_out() -> None:
    means = [np.array([[1.0, NAN, NAN]]), np.array([[3.0, 5.0, NAN]]), np.array([[NAN, NAN, NAN]])]
    exact = over_prompts(means)
    np.testing.assert_allclose(exact.value, [[2.0, 5.0, NAN]])
    np.testing.assert_allclose(exact.se, [[1.0, NAN, NAN]])
    sampled = over_prompts(means, [np.full((1, 3), 0.25)] * 3)
    np.testing.assert_allclose(sampled.se, [[1.0, 0.5, NAN]])
