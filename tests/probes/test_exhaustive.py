"""Every set of heads: what the truth says of games that are known, and of methods on trained models."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from zoo import random_pairs, tiny

from headscope.probes import (
    Exhaustive,
    Geometry,
    HeadId,
    Pairs,
    Refused,
    discover,
    exhaustive,
    faithfulness,
    load,
    repeats_prompts,
    roc_auc,
    trials,
)


def of(model: Any) -> Geometry:
    found: Geometry = load(model).geometry
    return found


@pytest.fixture(scope="module")
def game() -> Exhaustive:
    """Six heads: the first is needed, and with it one of the next two; the fourth does harm."""
    geometry = of(tiny("llama")).model_copy(update={"layers": 2, "heads": 3, "kv_heads": 3})
    kept = np.zeros(64)
    for i in range(64):
        a, b, c, d = (bool(i >> j & 1) for j in range(4))
        kept[i] = 4.0 * (a and (b or c)) - 1.0 * (d and a)
    return Exhaustive(geometry, kept)


def test_minimal_sets_hold_no_smaller_ones(game: Exhaustive) -> None:
    first, second, third = (HeadId(0, i) for i in range(3))
    assert game.minimal() == [[first, second], [first, third]]
    assert game.at([first, third]) == 0b101
    assert game.best(1) == 0
    assert game.best(2) == pytest.approx(4 / 3)


def test_shapley_values_are_means_over_orders(game: Exhaustive) -> None:
    expected = np.zeros(6)
    orders = list(permutations(range(6)))
    for order in orders:
        alive = 0
        for j in order:
            expected[j] += (game.kept[alive | 1 << j] - game.kept[alive]) / len(orders)
            alive |= 1 << j
    assert game.shapley().ravel() == pytest.approx(expected)
    assert game.shapley().sum() == pytest.approx(game.kept[-1] - game.kept[0])


def test_sets_are_those_of_faithfulness() -> None:
    model = load("repeats")
    prompts = repeats_prompts(4)
    circuit = discover(model, "repeats", method="attribution", prompts=prompts)
    curve = faithfulness(model, circuit, prompts, ablation="mean", sizes=(0.25, 0.5))
    truth = exhaustive(model, prompts, ablation="mean")
    assert curve.f == pytest.approx([truth.f[truth.at(circuit.top(n))] for n in (2, 4)], abs=1e-4)


def test_too_many_heads_are_refused() -> None:
    with pytest.raises(Refused, match="has 18 heads; all sets of heads can be tried for up to 14"):
        exhaustive(load(tiny("llama")), random_pairs())


@pytest.mark.parametrize("name", ["repeats", "repeats-1"])
def test_methods_on_trained_models(name: str) -> None:
    """Attention is saturated, so that one gradient misses the head that the others stand on."""
    model, asked = load(name), Pairs.given("repeats", repeats_prompts(48))
    learn, held = asked.split(24)
    assert trials(model, held.prompts).right.all()
    truth = exhaustive(model, held.prompts)
    heads = truth.minimal(0.85)[0]
    kept = {}
    for method in ("patching", "attribution-ig", "eap-ig", "pruning", "attribution"):
        circuit = discover(model, learn, method=method)
        kept[method] = truth.f[truth.at(circuit.top(len(heads)))]
        if method != "attribution":
            assert roc_auc(circuit, heads) == 1.0, method
    assert min(kept[m] for m in ("patching", "attribution-ig", "eap-ig", "pruning")) >= 0.85
    assert kept["attribution"] < 0.1
    one = discover(model, learn, method="pruning", settings={"steps": 1})
    assert truth.f[truth.at(one.top(len(heads)))] < 0.1


@pytest.mark.parametrize("first", ["worth", "size"])
def test_pruning_says_when_each_head_went(first: str) -> None:
    settings = {"first": first, "keep": 0.5, "steps": 2, "towards": "zero"}
    model = load("repeats")
    circuit = discover(model, "repeats", method="pruning", prompts=repeats_prompts(4), settings=settings)
    scores = np.sort(circuit.heads()["score"])
    assert scores == pytest.approx([1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4])  # of eight: four, two, one, one
    assert (circuit.cost.forward, circuit.cost.backward) == (9, 6)
