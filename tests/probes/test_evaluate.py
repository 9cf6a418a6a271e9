"""Answers read off one pass are the answers of greedy decoding, cached or not, changed or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from zoo import tiny

from headscope.probes import (
    HeadId,
    HeadscopeError,
    Prompt,
    Variant,
    answers,
    applied,
    each_head,
    fit,
    load,
    losses,
    only,
)

HEADS = ["L0H1", "L1H4", "L2H0"]


def made_up(n: int, answer: int, seed: int) -> Prompt:
    ids = torch.randint(3, 96, (n,), generator=torch.Generator().manual_seed(seed))
    return Prompt("made_up", tuple(ids.tolist()), answer=(n - answer, n))


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma3", "gpt2"])
@pytest.mark.parametrize("method", ["zero", "uniform"])
@torch.no_grad()
def test_answers_agree_with_generate(name: str, method: str) -> None:
    model = load(tiny(name))
    model.hf.generation_config.eos_token_id = None
    for positions in ("all", "generated"):
        variants: list[Variant] = [(), (fit(model, method, heads=HEADS, positions=positions),)]  # type: ignore[arg-type]
        for seed in range(3):
            prompt = made_up(24, 3, seed)
            question = torch.tensor([prompt.ids[:21]])
            for v, variant in enumerate(variants):
                with applied(model, *variant):
                    said = model.hf.generate(
                        question, max_new_tokens=3, do_sample=False, pad_token_id=0,
                        attention_mask=torch.ones_like(question),
                    )[0, 21:]  # fmt: skip
                right = Prompt("made_up", (*prompt.ids[:21], *said.tolist()), answer=(21, 24))
                found = answers(model, [right, prompt], variants)
                assert found.right[v, 0]
                assert found.right[v, 1] == (said.tolist() == list(prompt.ids[21:]))


@torch.no_grad()
def test_logprob_and_loss_are_the_models() -> None:
    model = load(tiny("llama"))
    prompt = made_up(20, 4, 0)
    logits = model.hf(torch.tensor([prompt.ids])).logits[0].log_softmax(-1)
    each = logits[:-1].gather(-1, torch.tensor(prompt.ids)[1:, None])[:, 0]
    late = (fit(model, "zero", heads=HEADS, positions="generated", strength=1.0),)
    got = answers(model, [prompt], [(), late]).logprob[:, 0]
    np.testing.assert_allclose(got, float(each[-4:].mean()), atol=1e-4)
    np.testing.assert_allclose(losses(model, [prompt], [()])[0, 0], -float(each.mean()), atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma3", "gpt2", "gpt-oss"])
@pytest.mark.parametrize("method", ["mean", "uniform"])
def test_heads_side_by_side_are_heads_one_by_one(name: str, method: str) -> None:
    model = load(tiny(name))
    heads = [HeadId(layer, head) for layer in (2, 0, 1) for head in (3, 1)]
    spec = fit(model, method, heads=heads, prompts=[made_up(20, 1, 9)], positions="generated")
    prompts = [made_up(30, 3, seed) for seed in range(2)]
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    fast = each_head(model, prompts, spec)
    slow = answers(model, prompts, [(), *((only(spec, [h]),) for h in heads)]).logprob
    np.testing.assert_allclose(fast, slow[0] - slow[1:], atol=1e-4)
    assert np.abs(fast).max() > 0.01
    assert before == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    assert not any("forward" in layer.__dict__ for layer in model.layer_modules)


def test_a_prompt_without_an_answer_is_refused() -> None:
    with pytest.raises(HeadscopeError, match="has no answer"):
        answers(load(tiny("llama")), [Prompt("prose", (1, 2, 3))], [()])
