"""Detectors against rows written by hand, where the answer is known."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headscope.heads import DETECTORS
from headscope.probes import Estimate, Observation, Prompt, over_prompts

retrieval = importlib.import_module("headscope.heads.detectors.retrieval")

# needle = positions 2 ... 7, value = 4 ... 6 (tokens 30 31 30), answer repeats it at the end
IDS = (1, 9, 20, 21, 30, 31, 30, 22, 9, 9, 30, 31, 30)
PROMPT = Prompt(
    "needle", IDS, {"needle": (2, 8), "value": (4, 7)}, (10, 13), (4, 5, 6), meta={"length": len(IDS)}
)


def seen(keys: list[list[int]], right: bool = True, prompt: Prompt = PROMPT) -> Observation:
    """One layer; `keys[h][r]` is the heaviest key of head h in the row that predicts answer token r."""
    top = np.array(keys)[None, :, :, None]
    answer = IDS[10:13] if right else (5, 5, 5)
    return Observation(
        prompt, {"top_key": top, "span_value": np.full(top.shape[:3], 0.25)}, np.array([9, 10, 11]),
        {}, {}, {}, {}, np.array(answer), np.zeros(3, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "by_set", "by_sum"),
    [
        ([4, 5, 6], 1.0, 1.0),  # copies every token from its place
        ([6, 5, 4], 1.0, 1.0),  # from the other 30: still the same token
        ([4, 4, 4], 0.5, 2 / 3),  # 30 twice (31 missed): one of two distinct tokens
        ([10, 5, 10], 0.5, 1 / 3),  # 30 in the answer itself is not in the needle
        ([2, 3, 7], 0.0, 0.0),  # in the needle, but on other tokens
        ([0, 0, 0], 0.0, 0.0),
    ],
    ids=["all", "swapped", "one-token", "outside", "wrong-token", "sink"],
)
def test_retrieval_score_by_hand(keys: list[int], by_set: float, by_sum: float) -> None:
    assert retrieval.set_score(seen([keys]))[0, 0] == pytest.approx(by_set)
    assert retrieval.sum_score(seen([keys]))[0, 0] == pytest.approx(by_sum)


def test_only_right_answers_count() -> None:
    good, bad = seen([[4, 5, 6], [0, 0, 0]]), seen([[0, 0, 0], [4, 5, 6]], right=False)
    reading = DETECTORS["retrieval"].read([good, bad, good], None)  # type: ignore[arg-type]
    assert reading.scores["retrieval"].value.tolist() == [[1.0, 0.0]]
    assert reading.about["retrieval"].prompts == 2
    assert DETECTORS["retrieval"].read([bad], None).scores == {}  # type: ignore[arg-type]


def test_every_detector_says_what_it_does() -> None:
    for detector in DETECTORS:
        assert detector.summary
        assert type(detector).__doc__
        for rule in detector.rules:
            assert rule.source
            assert rule.all_of


@given(
    means=hnp.arrays(np.float64, (7, 2, 3), elements=st.floats(-5, 5)),
    noise=hnp.arrays(np.float64, (7, 2, 3), elements=st.floats(0, 2)),
)
def test_error_bars(means: np.ndarray, noise: np.ndarray) -> None:
    """Never below the scatter of the prompts, never below the sampling noise."""
    plain: Estimate = over_prompts(list(means))
    noisy = over_prompts(list(means), list(noise))
    np.testing.assert_allclose(plain.value, means.mean(0), atol=1e-12)
    np.testing.assert_allclose(plain.se, means.std(0, ddof=1) / np.sqrt(7), atol=1e-12)
    floor = np.sqrt(noise.sum(0)) / 7
    np.testing.assert_allclose(noisy.se, np.maximum(plain.se, floor), atol=1e-12)


def test_error_bars_with_gaps() -> None:
    gap = over_prompts([[1.0, np.nan], [3.0, np.nan], [np.nan, 5.0]])
    assert gap.value.tolist() == [2.0, 5.0]
    assert gap.se[0] == pytest.approx(1.0)
    assert np.isnan(gap.se[1])  # one exact prompt says nothing about its error


def test_a_single_prompt_read_row_by_row_has_no_error_bar() -> None:
    """Sampled rows give it that of the sample; where none was left out, nothing is known, and not 0."""
    one = over_prompts([[0.4, 0.4]], [[0.0, 0.01]])
    assert np.isnan(one.se[0]) and one.se[1] == pytest.approx(0.1)
    alike = over_prompts([[0.4], [0.4]], [[0.0], [0.0]])
    assert alike.se[0] == 0


def test_prompts_with_wrong_labels_are_refused() -> None:
    with pytest.raises(Exception, match="does not lie within"):
        Prompt("needle", IDS, {"needle": (2, 80)})
    with pytest.raises(Exception, match="does not spell its answer"):
        Prompt("needle", IDS, {}, (10, 13), (4, 5, 7))
