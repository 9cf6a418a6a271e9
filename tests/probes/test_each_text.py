"""Every head ablated alone: side by side as in passes of their own, and to first order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from zoo import tiny

from headscope.probes import (
    HeadId,
    HeadscopeError,
    Prompt,
    each_head,
    each_head_estimate,
    each_head_loss,
    fit,
    load,
    losses,
    only,
)
from headscope.probes.evaluate import Variant


def texts(count: int) -> list[Prompt]:
    drawn = torch.randint(3, 96, (count, 24), generator=torch.Generator().manual_seed(0))
    return [Prompt("made_up", tuple(row)) for row in drawn.tolist()]


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gpt-oss"])
@pytest.mark.parametrize("method", ["zero", "uniform"])
def test_heads_side_by_side_are_heads_alone(name: str, method: str) -> None:
    model, made = load(tiny(name)), texts(2)
    g = model.geometry
    spec = fit(model, method, heads=[HeadId(a, b) for a in range(g.layers) for b in range(g.heads)])
    done: list[int] = []
    found = each_head_loss(model, made, spec, done.append)
    variants: list[Variant] = [(), *((only(spec, [h]),) for h in spec.heads)]
    loss = losses(model, made, variants)
    assert np.abs(found - (loss[1:] - loss[0])).max() < 1e-5 and done == [1, 2]
    assert np.abs(found).max() > 1e-5


def test_the_first_order_is_exact_where_the_change_is_small() -> None:
    model, made = load(tiny("llama")), texts(2)
    heads = [HeadId(0, 1), HeadId(2, 3), HeadId(1, 0)]
    spec = fit(model, "mean", heads=heads, prompts=made, strength=0.99)
    whole = each_head_loss(model, made, spec)
    assert each_head_estimate(model, made, spec) == pytest.approx(whole, rel=0.1, abs=2e-6)
    asked = [Prompt("made_up", p.ids, answer=(20, 24)) for p in made]
    answer = each_head(model, asked, spec)
    assert each_head_estimate(model, asked, spec) == pytest.approx(answer, rel=0.1, abs=2e-6)
    assert all(p.grad is None for p in model.hf.parameters())


def test_what_does_not_replace_outputs_cannot_be_estimated() -> None:
    model = load(tiny("llama"))
    spec = fit(model, "uniform", heads=["L0H0"])
    with pytest.raises(HeadscopeError, match="'uniform' does not replace what heads put out"):
        each_head_estimate(model, texts(1), spec)
