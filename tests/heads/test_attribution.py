"""Integrated gradients of streaming: they add up, and point at the group that matters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizer_zoo import tokenizer
from zoo import tiny

from headscope.heads import Origin, Policy, Window, attribution, streaming_loss
from headscope.heads.quality import Answer, answer
from headscope.probes import HeadscopeError, Model, Prompt, load

WINDOW = Window(sink=2, recent=4)


@pytest.fixture(scope="module")
def llama() -> Model:
    return load(tiny("llama"))


def prompt(seed: int) -> Prompt:
    ids = torch.randint(3, 96, (40,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Prompt("test", tuple(ids), answer=(37, 40))


def streaming(model: Model, groups: set[tuple[int, int]]) -> Policy:
    g = model.geometry
    kept = tuple(
        tuple(WINDOW if (i, j) in groups else None for j in range(g.kv_heads)) for i in range(g.layers)
    )
    reads = tuple(tuple(row[h // g.group_size] for h in range(g.heads)) for row in kept)
    return Policy(model=model.name, geometry=g, retain=kept, compute=reads, origin=Origin(by="test"))


def test_attributions_add_up_to_the_cost_of_streaming_everything(llama: Model) -> None:
    g = llama.geometry
    everything = {(i, j) for i in range(g.layers) for j in range(g.kv_heads)}
    for seed in range(3):
        found = streaming_loss(llama, [prompt(seed)], WINDOW, steps=400)
        full = answer(llama, None, prompt(seed)).logprob
        cut = answer(llama, streaming(llama, everything), prompt(seed)).logprob
        assert found.value.sum() == pytest.approx(full - cut, abs=2e-2)


def test_a_single_layer_is_attributed_as_streamed(llama: Model) -> None:
    """With the other groups' part in the answer taken away, a group's share is its own effect."""
    from copy import deepcopy

    alone = load(deepcopy(llama.hf))
    with torch.no_grad():
        for layer in range(3):
            weight = alone.output_projection(layer).weight
            keep = torch.zeros_like(weight)
            if layer == 1:
                keep[:, : 3 * alone.geometry.head_dim] = 1  # KV group 0
            weight.mul_(keep)
    found = streaming_loss(alone, [prompt(0), prompt(1)], WINDOW, steps=200)
    effect = [
        answer(alone, None, p).logprob - answer(alone, streaming(alone, {(1, 0)}), p).logprob
        for p in (prompt(0), prompt(1))
    ]
    assert found.value[1, 0] == pytest.approx(np.mean(effect), abs=1e-2)
    assert found.se[1, 0] == pytest.approx(abs(effect[0] - effect[1]) / 2, abs=1e-2)
    others = found.value.copy()
    others[1, 0] = 0
    assert np.abs(others).max() < 1e-5


def test_weights_stay_as_they_were_and_answers_are_needed(llama: Model) -> None:
    streaming_loss(llama, [prompt(0)], WINDOW, steps=1)
    assert all(p.requires_grad and p.grad is None for p in llama.hf.parameters())
    with pytest.raises(HeadscopeError, match="None of the prompts has an answer"):
        streaming_loss(llama, [Prompt("test", (1, 2, 3))], WINDOW)


@pytest.mark.parametrize(("count", "each"), [(8, [2, 2, 1, 1, 1, 1]), (6, [1] * 6), (2, [1, 1, 0, 0, 0, 0])])
def test_every_task_and_length_gets_its_share_of_the_prompts(
    monkeypatch: pytest.MonkeyPatch, count: int, each: list[int]
) -> None:
    tasks, lengths = ("needle", "passkey", "keyvalue"), (400, 500)
    monkeypatch.setattr(attribution, "answer", lambda *_: Answer(right=True, logprob=0.0))
    model: Any = SimpleNamespace(name="any", reader=lambda _: tokenizer("bytes_digits"))
    asked = attribution._answered(model, tasks, lengths, count, 0, None)
    cells = [(t, n) for t in tasks for n in lengths]
    assert [sum((p.task, p.meta["length"]) == cell for p in asked) for cell in cells] == each
