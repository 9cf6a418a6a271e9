"""PH3 on a model whose facts are known, and its parts on tiny ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from zoo import tiny

from headscope.heads import (
    Conflicts,
    Importance,
    Settled,
    choose_k,
    context_aware,
    find_pruning,
    instructed,
    prune,
    settle,
    told,
)
from headscope.heads.ph3 import Side, halves
from headscope.probes import (
    HeadId,
    HeadscopeError,
    Model,
    Prompt,
    attribution_patching,
    fit,
    load,
    trials,
    trials_under,
)
from headscope.probes.toys.facts import RELATIONS, questions, world

LEARNED = RELATIONS[:3]
EVERY = [HeadId(i, j) for i in range(3) for j in range(8)]


@pytest.fixture(scope="module")
def toy() -> Model:
    return load("facts")


@pytest.fixture(scope="module")
def data(toy: Model) -> Conflicts:
    """Facts that the model knows, all relations, both formats."""
    made = (questions(toy.tokenizer, kind, 240, seed=5) for kind in ("conflict", "agreement", "closed_book"))
    return Conflicts.of(toy, *made)


@pytest.fixture(scope="module")
def learned(data: Conflicts) -> Conflicts:
    return data.where(lambda p: p.meta["relation"] in LEARNED and p.meta["format"] == "plain")


@pytest.fixture(scope="module")
def held_out(data: Conflicts) -> Conflicts:
    return data.where(lambda p: p.meta["relation"] not in LEARNED)


@pytest.fixture(scope="module")
def importance(toy: Model, learned: Conflicts) -> Importance:
    return Importance.of(toy, learned.conflict)


def rates(settled: Settled) -> dict[str, float]:
    return {name: getattr(settled, name).mean() for name in ("memory", "context", "agreement", "closed")}


def test_the_shipped_model_knows_and_copies(toy: Model, data: Conflicts) -> None:
    """It knows its facts and repeats what it is told; memory and context compete near one half."""
    assert len(data) >= 0.9 * 240
    (settled,) = settle(toy, data, [()])
    assert rates(settled)["agreement"] >= 0.95
    assert rates(settled)["context"] >= 0.25
    found = trials(toy, data.conflict)
    assert 0.35 <= found.p_right.mean() <= 0.65
    assert 0.35 <= found.p_wrong.mean() <= 0.65
    assert sum(parameter.numel() for parameter in toy.hf.parameters()) * 4 < 8e6


def test_facts_are_those_of_the_world(toy: Model) -> None:
    here = world()
    for prompt in questions(toy.tokenizer, "conflict", 24):
        text = toy.tokenizer.decode(prompt.ids) if toy.tokenizer else ""
        who = toy.tokenizer.decode(prompt.ids[slice(*prompt.spans["subject"])]) if toy.tokenizer else ""
        assert here.truth[who, prompt.meta["relation"]] == prompt.meta["right"]
        assert prompt.meta["wrong"] in text.split()
        assert prompt.meta["right"] == text.split()[-1]


def balance_without(toy: Model, prompts: Conflicts, sets: list[tuple[HeadId, ...]]) -> np.ndarray:
    """Mean log-odds of memory over context without each set of heads, and with all. [1 + sets]"""
    variants = [(), *((prune(toy, heads, "generated"),) for heads in sets)]
    found = trials_under(toy, prompts.conflict, variants)
    return np.array([np.log(t.p_right / t.p_wrong).mean() for t in found])


def test_the_heads_are_those_of_exhaustive_ablation(
    toy: Model, learned: Conflicts, importance: Importance
) -> None:
    """Every head removed by itself, and every pair: the same heads matter, for the same side."""
    untouched, *alone = balance_without(toy, learned, [(h,) for h in EVERY])
    lost = untouched - np.array(alone)  # what each head did for memory
    paths = importance.balance().value.ravel()
    assert stats.spearmanr(lost, paths).statistic >= 0.8
    for sign, side in ((1, "memory"), (-1, "context")):
        by_ablation = [EVERY[i] for i in np.argsort(-sign * lost, kind="stable")[:4]]
        by_paths = importance.ranked(side)[:4]
        assert len(set(by_ablation) & set(by_paths)) >= 3
        pool = list(dict.fromkeys(by_ablation + importance.ranked(side)[:6]))
        pairs = list(combinations(pool, 2))
        _, *both = balance_without(toy, learned, pairs)
        best = max(sign * (untouched - x) for x in both)
        chosen = sign * (untouched - both[pairs.index(_pair(pairs, by_paths[:2]))])
        assert chosen >= 0.8 * best


def _pair(pairs: list[tuple[HeadId, HeadId]], wanted: list[HeadId]) -> tuple[HeadId, HeadId]:
    return next(p for p in pairs if set(p) == set(wanted))


@pytest.mark.parametrize("favour", ["memory", "context"])
def test_pruning_moves_the_side_on_held_out_relations_and_formats(
    toy: Model, learned: Conflicts, held_out: Conflicts, favour: Side
) -> None:
    """20 points or more, at most 3 where there is no conflict, and more than any random heads.

    Random heads are those of any layer. Whole layers take sides here, and most heads carry the
    context, so that many a random pair does part of it.
    """
    found = find_pruning(toy, learned, favour, positions="generated")
    rng, others = np.random.default_rng(0), [h for h in EVERY if h not in found.heads]
    sets = [[others[i] for i in rng.permutation(len(others))[: len(found.heads)]] for _ in range(8)]
    sets.insert(0, list(found.heads))
    before, after, *random = (
        rates(s) for s in settle(toy, held_out, [(), *((prune(toy, h, "generated"),) for h in sets)])
    )
    moved = after[favour] - before[favour]
    assert moved >= 0.2
    assert after["agreement"] >= before["agreement"] - 0.03
    by_chance = [r[favour] - before[favour] for r in random]
    assert max(by_chance) < moved
    assert np.mean(by_chance) < moved / 2


def test_the_intervention_is_what_was_found(toy: Model, held_out: Conflicts) -> None:
    prompts = [
        p
        for kind in ("conflict", "agreement", "closed_book")
        for p in questions(toy.tokenizer, kind, 120, seed=9)
    ]
    spec = fit(toy, "ph3", prompts=prompts, positions="generated", favour="context")
    assert spec.source.task == "conflict"
    assert 0 < spec.source.prompts <= 120
    assert spec.strengths == (0.0,) * len(spec.heads)
    same, zero, none = settle(
        toy, held_out, [(spec,), (prune(toy, spec.heads, "generated"),), (spec.with_strength(1.0),)]
    )
    (untouched,) = settle(toy, held_out, [()])
    assert rates(same) == rates(zero)
    assert rates(none) == rates(untouched)
    table = told(toy, spec, held_out.conflict).set_index("what")
    assert table.loc["intervention", "wrong"] == pytest.approx(same.context.mean())
    assert table.loc["untouched", "right"] == pytest.approx(untouched.memory.mean())
    np.testing.assert_allclose(table[["right", "wrong", "other"]].sum(axis=1), 1.0)
    two = fit(toy, "ph3", prompts=prompts, favour="memory", k=2)
    assert len(two.heads) == 2


def test_rivals_move_what_they_say(toy: Model, held_out: Conflicts) -> None:
    (before,) = settle(toy, held_out, [()])
    found = context_aware(toy, held_out, (-1.0, 0.0, 2.0))
    assert rates(found[0.0]) == rates(before)
    assert found[-1.0].memory.mean() == 1.0  # the logits without the context, which are right
    assert found[2.0].context.mean() > before.context.mean()
    assert rates(instructed(toy, held_out, "")) == rates(before)


def test_gradient_times_activation_is_a_slope(toy: Model, learned: Conflicts) -> None:
    """With one head of the last layer, which only the final norm follows, it nearly is ablation."""
    few = Conflicts(learned.conflict[:8], learned.agreement[:8], learned.closed[:8])
    found = attribution_patching(toy, few.conflict, positions="last", towards="zero")
    untouched, *alone = balance_without(toy, few, [(h,) for h in EVERY])
    exact = np.array(alone) - untouched
    assert np.corrcoef(exact, found.estimate().value.ravel())[0, 1] >= 0.7


def test_halves_share_no_subject(learned: Conflicts) -> None:
    one, two = halves(learned, 0)
    subjects = [{p.ids[slice(*p.spans["subject"])] for p in half.conflict} for half in (one, two)]
    assert not subjects[0] & subjects[1]
    assert len(one) + len(two) == len(learned)


def test_k_is_the_best_that_costs_little(toy: Model, learned: Conflicts, importance: Importance) -> None:
    choice = choose_k(toy, learned, "context", importance.ranked("memory"), ks=(1, 3), positions="generated")
    assert set(choice.curve) == {0, 1, 3}
    allowed = {
        k: s for k, s in choice.curve.items() if s.agreement.mean() >= choice.curve[0].agreement.mean() - 0.03
    }
    assert choice.k in allowed
    assert choice.curve[choice.k].context.mean() == max(s.context.mean() for s in allowed.values())
    nothing = choose_k(toy, learned, "memory", importance.ranked("memory"), ks=(8,), positions="generated")
    assert nothing.k == 0  # pruning memory heads does not favour memory


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: Conflicts.known(m, 4), "was loaded without a tokenizer"),
        (lambda m: instructed(m, Conflicts((), (), ()), "x"), "was loaded without a tokenizer"),
        (lambda m: find_pruning(m, Conflicts((), (), ()), "memory"), "facts about at least two subjects"),
        (
            lambda m: fit(m, "ph3", prompts=[Prompt("needle", (3, 4), answer=(1, 2))]),
            "learns from 'conflict'",
        ),
        (lambda m: fit(m, "ph3", heads=["L0H1"], favour="both"), "settings of 'ph3' are wrong: favour"),
    ],
)
def test_what_cannot_be_is_said(call: Callable[[Model], object], message: str) -> None:
    with pytest.raises(HeadscopeError, match=message):
        call(load(tiny("llama")))
