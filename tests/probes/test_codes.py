"""SAE codes: the gradients by hand, the counting, and a head that says something only on the task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from zoo import random_pairs, tiny

from headscope.probes import Contrast, HeadscopeError, Prompt, discover, load
from headscope.probes.circuits.codes import (
    appearances,
    exclusive,
    exclusive_pairs,
    information,
    learn_codebook,
    slopes,
)
from headscope.probes.circuits.foreign import foreign
from headscope.probes.circuits.methods.sae_codes import CodesSettings, found_in


def test_gradients_by_hand_are_autograds() -> None:
    random = torch.Generator().manual_seed(0)
    shapes = [(7, 11), (11, 7), (7,), (11,)]
    weights = [torch.randn(s, generator=random, requires_grad=True) for s in shapes]
    x = torch.randn(33, 11, generator=random)
    encoder, decoder, threshold, bias = weights
    codes = torch.relu((x - bias) @ encoder.T + threshold)
    (((codes @ decoder.T + bias - x) ** 2).mean() + 0.3 * codes.sum(1).mean()).backward()
    for weight, slope in zip(weights, slopes(x, x, [w.detach() for w in weights], 0.3), strict=True):
        torch.testing.assert_close(slope, weight.grad, rtol=1e-4, atol=1e-6)


def test_an_autoencoder_learns_and_keeps_its_rows_short() -> None:
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    books = [
        learn_codebook(x, features=24, sparsity=0.01, epochs=30, rate=1e-2, seed=seed) for seed in (3, 3, 4)
    ]
    torch.testing.assert_close(books[0].encoder.norm(dim=1), torch.ones(24))
    torch.testing.assert_close(books[0].encoder, books[1].encoder, rtol=0, atol=0)
    assert not torch.equal(books[0].encoder, books[2].encoder)


def test_codes_of_positives_alone_are_counted() -> None:
    positive = np.array([[1, 1, 2, 3], [5, 5, 5, 5]])
    negative = np.array([[2, 4, 4, 4], [5, 5, 5, 5]])
    own, every = exclusive(positive, negative)
    assert own.tolist() == [2, 0]  # 1 and 3 of 1, 2, 3, 4
    assert every.tolist() == [4, 1]
    own, every = exclusive_pairs(positive, negative, 10)
    assert (own[0, 1], every[0, 1], own[1, 0]) == (2, 4, 0)


def test_names_in_the_best_half_of_pairs() -> None:
    score = np.zeros((3, 3))
    score[0, 2], score[1, 2] = 3.0, 2.0
    assert appearances(score).tolist() == [1, 1, 2]  # 9 // 2 names: 0, 2, 1, 2


def test_information_is_what_the_code_says_of_the_class() -> None:
    one, other = np.zeros((1, 500), dtype=np.int64), np.ones((1, 500), dtype=np.int64)
    assert information(one, other, 2)[0] == pytest.approx(np.log(2) - 1 / 2000)
    assert information(one, one, 2)[0] == 0
    rng = np.random.default_rng(0)
    chance = information(*rng.integers(0, 50, (2, 1, 2000)), 50)[0]
    assert abs(chance) < 0.006  # without the correction .012 on average


def test_a_head_that_marks_the_task_stands_out() -> None:
    """Among heads that say one thing each; noisy heads have codes of their own by chance."""
    random = torch.Generator().manual_seed(0)
    x = 0.01 * torch.randn(2, 40, 2, 3, 16, generator=random) + torch.randn(2, 3, 16, generator=random)
    x[0, :, 1, 2, :8] += torch.eye(8).repeat(5, 1) * 3  # eight things that only positives make it say
    settings = CodesSettings(examples=40, features=32, epochs=200, rate=1e-2, members=2)
    for score in ("unique", "share", "information"):
        found = found_in(x, settings.model_copy(update={"score": score}), 0, lambda a, b: None)
        assert max(found.nodes, key=lambda node: node.score).id == "L1H2"
        assert all(node.se is not None for node in found.nodes)


def test_negatives_are_foreign_and_settings_reach_the_circuit() -> None:
    with pytest.raises(HeadscopeError, match="No other 'random' prompt has tokens"):
        discover(load(tiny("llama")), "random", method="sae-codes", prompts=random_pairs()[:1])
    quick = {"negatives": "counterfactual", "epochs": 3, "features": 8, "level": "edges", "edges": 5}
    found = discover(
        load(tiny("llama")), "random", method="sae-codes", prompts=random_pairs(), settings=quick
    )
    assert len(found.edges) == 5 and found.settings["level"] == "edges"
    assert all(a[1] < b[1] for a, b in zip(found.edges.source, found.edges.target, strict=True))


def test_a_foreign_negative_names_somebody_else() -> None:
    def pair(a: int, b: int) -> Prompt:
        return Prompt(
            "two", (1, a, b, 2, b, a), answer=(5, 6), contrast=Contrast((1, a, b, 2, a), (a,), (b,))
        )

    prompts = [pair(11, 12), pair(13, 14), pair(11, 14)]
    found = foreign(prompts, seed=0)
    assert [p.contrast.ids[4] for p in found if p.contrast] == [14, 12, 12]
    assert [p.ids for p in found] == [p.ids for p in prompts]
