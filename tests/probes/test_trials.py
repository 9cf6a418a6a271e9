"""Answers of many prompts at once: padding, cached prefixes and interventions change nothing else."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from zoo import tiny

from headscope.probes import (
    Contrast,
    HeadId,
    HeadscopeError,
    Model,
    Prompt,
    all_answer_logits,
    applied,
    fit,
    known,
    load,
    trials,
    trials_under,
)


def prompts(lengths: tuple[int, ...] = (5, 17, 9, 1)) -> list[Prompt]:
    rng = Random(0)
    return [
        Prompt(
            "made_up", (*tuple(rng.randrange(3, 96) for _ in range(n)), 5), answer=(n, n + 1),
            contrast=Contrast(tuple(rng.randrange(3, 96) for _ in range(n)), (5, 6), (7,)),
        )
        for n in lengths
    ]  # fmt: skip


def alone(model: Model, prompt: Prompt, *specs: object) -> torch.Tensor:
    """Logits of one prompt by itself."""
    ids = torch.tensor([prompt.ids[:-1]])
    with torch.no_grad(), applied(model, *specs, prompt=ids.shape[1]):  # type: ignore[arg-type]
        logits: torch.Tensor = model.hf(ids, use_cache=False).logits[0, -1]
    return logits


def test_a_batch_is_its_prompts(any_model: Model) -> None:
    together = all_answer_logits(any_model, prompts())
    for row, prompt in zip(together, prompts(), strict=True):
        torch.testing.assert_close(row, alone(any_model, prompt), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("positions", ["all", "generated"])
def test_interventions_on_a_batch_are_those_on_its_prompts(any_model: Model, positions: str) -> None:
    heads = [HeadId(0, 1), HeadId(1, 4), HeadId(2, 0)]
    spec = fit(any_model, "zero", heads=heads, positions=positions)  # type: ignore[arg-type]
    untouched, changed = trials_under(any_model, prompts(), [(), (spec,)])
    for i, prompt in enumerate(prompts()):
        for found, specs in ((untouched, ()), (changed, (spec,))):
            p = alone(any_model, prompt, *specs).double().softmax(-1)
            assert found.p_right[i] == pytest.approx(float(p[5] + p[6]), rel=2e-3)
            assert found.p_wrong[i] == pytest.approx(float(p[7]), rel=2e-3)
            assert found.token[i] == int(p.argmax())
    assert not np.allclose(untouched.p_right, changed.p_right, rtol=1e-3)


def test_methods_that_watch_the_prompt_are_shown_it() -> None:
    """ACT tallies what keys receive from the first token on, so it shares no prefill read without it."""
    model = load(tiny("llama"))
    spec = fit(model, "act", heads=[HeadId(1, 4)], positions="generated", alpha=0.5, min_queries=1)
    untouched, found = trials_under(model, prompts(), [(), (spec,)])
    for i, prompt in enumerate(prompts()):
        p = alone(model, prompt, spec).double().softmax(-1)
        assert found.p_right[i] == pytest.approx(float(p[5] + p[6]), rel=2e-3)
    assert not np.allclose(untouched.p_right, found.p_right, rtol=1e-4)


def test_right_and_wrong_are_told_by_the_first_token() -> None:
    model = load(tiny("llama"))
    made = prompts((6, 7, 8))
    said = trials(model, made).token.tolist()
    others = [next(t for t in range(3, 96) if t != s) for s in said]
    asked = [
        Prompt("made_up", (*p.ids[:-1], a), answer=p.answer, contrast=Contrast(p.contrast.ids, (a,), (b,)))
        for p, a, b in zip(made, (said[0], others[1], 95), (others[0], said[1], 94), strict=True)
        if p.contrast
    ]
    found = trials(model, asked)
    assert found.right.tolist() == [True, False, said[2] == 95]
    assert found.wrong.tolist() == [False, True, said[2] == 94]
    assert known(model, asked)[:1] == asked[:1]


def test_nothing_to_ask_is_said() -> None:
    model = load(tiny("llama"))
    with pytest.raises(HeadscopeError, match="There are no prompts to run"):
        trials(model, [])
    with pytest.raises(HeadscopeError, match="A 'needle' prompt has no counterfactual"):
        trials(model, [Prompt("needle", (3, 4), answer=(1, 2))])
