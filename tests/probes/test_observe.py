"""Sampling rows and averaging over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from zoo import eager_attentions, tiny

from headscope.probes import HeadscopeError, Prompt, Recipe, Watch, headrows, load, observe
from headscope.probes.observe import _average, _Weights, sample_rows


@given(n=st.integers(1, 400), count=st.integers(2, 64), seed=st.text(max_size=4))
def test_sampled_rows(n: int, count: int, seed: str) -> None:
    rows = sample_rows(n, count, seed)
    assert len(rows) == min(n, count)
    assert (np.diff(rows) > 0).all()
    assert rows[0] == 0
    assert rows[-1] < n
    assert rows.tolist() == sample_rows(n, count, seed).tolist()


def test_the_average_is_unbiased_and_its_variance_is_true() -> None:
    """Over many draws: the estimates centre on the full mean and scatter as the variance says."""
    rng = np.random.default_rng(0)
    n, count = 300, 48
    everything = rng.gamma(0.5, size=n)
    everything[:4] = 30.0  # early rows that stand out
    everything[100:120] = np.nan  # and a stretch where the statistic is not defined
    means, variances = [], []
    for draw in range(2000):
        rows = sample_rows(n, count, str(draw))
        mean, var = _average({"x": torch.tensor(everything[rows][None, None]).float()}, _Weights.of(rows, n))
        means.append(float(mean["x"][0, 0]))
        variances.append(float(var["x"][0, 0]))
    assert np.mean(means) == pytest.approx(np.nanmean(everything), rel=0.01)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.15)


def test_all_rows_have_no_sampling_error() -> None:
    values = np.random.default_rng(1).random((1, 2, 30)).astype(np.float32)
    mean, var = _average({"x": torch.from_numpy(values)}, _Weights.of(np.arange(30), 30))
    np.testing.assert_allclose(mean["x"], values.mean(-1), rtol=1e-5)
    assert not var["x"].any()


@pytest.mark.parametrize("kind", ["prose", "needle", "repeat"])
def test_layers_taken_down_together_are_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, all at once and three at a time, against one by one."""
    ids = tuple(i % 7 + 3 for i in range(250))
    prompt = {
        "prose": Prompt("prose", ids),
        "needle": Prompt("needle", ids, {"needle": (10, 20)}, (246, 250)),
        "repeat": Prompt("repeat", ids, offsets={"echo": (7,), "induction": (6, 13)}, meta={"period": 7}),
    }[kind]
    model = load(tiny("llama"))
    recipe = Recipe(sample=64, watch=Watch(keep=((4, 40),)))
    alone = observe(model, prompt, recipe)
    one_layer = 64 * model.geometry.heads * model.geometry.head_dim * 4 * 2
    for held in (1 << 40, 2 * one_layer):
        monkeypatch.setattr(headrows, "_HELD", {"cpu": held})
        together = observe(model, prompt, recipe)
        for part in ("mean", "var", "exact", "head"):
            want, got = getattr(alone, part), getattr(together, part)
            assert list(want) == list(got)
            for name in want:
                np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-6, err_msg=name)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt-oss", "gpt-neox", "phi3", "olmo2"])
def test_observation_agrees_with_the_model(name: str) -> None:
    """Whole-head quantities against the model's own: W_O slices, predictions, residual norms."""
    model = load(tiny(name))
    ids = tuple(int(i) for i in torch.randint(3, 96, (70,), generator=torch.Generator().manual_seed(3)))
    prompt = Prompt("needle", ids, {"needle": (10, 20), "value": (12, 15)}, (66, 70))
    seen = observe(model, prompt, Recipe(sample=1000))
    out = model.hf(torch.tensor([ids]), output_hidden_states=True)
    assert seen.predicted.tolist() == out.logits[0, 65:69].argmax(-1).tolist()
    logprob = out.logits[0, 65:69].float().log_softmax(-1).gather(-1, torch.tensor(ids[66:])[:, None])
    np.testing.assert_allclose(seen.logprob, logprob[:, 0], atol=1e-4)
    norms = torch.stack([h[0].float().norm(dim=-1) for h in out.hidden_states[:-1]])
    np.testing.assert_allclose(seen.layer["peak_norm"], norms.topk(8, -1).values, rtol=1e-4)
    assert seen.exact["top_key"].shape == (3, 6, 4, 8)
    assert not any(v.any() for v in seen.var.values())


@pytest.mark.parametrize("name", ["mistral-window", "gemma3", "llama"])
def test_entropy_is_over_the_keys_that_a_row_sees(name: str) -> None:
    """1 is uniform, in layers with a sliding window too, whose late rows see no more than that."""
    model = load(tiny(name))
    ids = tuple(int(i) for i in torch.randint(3, 96, (60,), generator=torch.Generator().manual_seed(5)))
    found = observe(model, Prompt("prose", ids), Recipe(sample=1000)).mean["entropy"]
    for layer, weights in enumerate(eager_attentions(model.hf, input_ids=torch.tensor([ids]))):
        seen = torch.arange(1, 61).clamp_max(model.geometry.windows[layer] or 60).double()
        own = -torch.special.xlogy(weights[0].double(), weights[0].double()).sum(-1)
        np.testing.assert_allclose(found[layer], (own[:, 1:] / seen[1:].log()).mean(-1), atol=1e-4)


@pytest.mark.parametrize("count", [2, 6, 20, 64])
def test_what_keys_receive_counts_a_late_row_for_those_it_stands_for(count: int) -> None:
    """However few rows are drawn: the early ones count once, the late ones together for all others."""
    model, n = load(tiny("llama")), 90
    ids = tuple(int(i) for i in torch.randint(3, 96, (n,), generator=torch.Generator().manual_seed(6)))
    prompt = Prompt("prose", ids)
    head = observe(model, prompt, Recipe(sample=count, seed=1)).head
    rows = sample_rows(n, count, f"1:{prompt.key()}")
    counts = _Weights.of(rows, n).weight
    assert counts.sum() == pytest.approx(n)
    for layer, weights in enumerate(eager_attentions(model.hf, input_ids=torch.tensor([ids]))):
        received = (weights[0][:, rows].double() * counts[:, None]).sum(1) / torch.arange(n, 0, -1)
        key, mass = torch.tensor(head["receiver_key"][layer]), head["receiver_mass"][layer]
        want = received.gather(-1, key).numpy()
        np.testing.assert_allclose(mass, np.where(mass > 0, want, 0.0), atol=1e-5)


def test_prompts_that_do_not_fit() -> None:
    model = load(tiny("llama"))
    with pytest.raises(HeadscopeError, match=r"has 300 tokens, but .* was built for at most 256"):
        observe(model, Prompt("x", (5,) * 300))
    with pytest.raises(HeadscopeError, match="made with another tokenizer"):
        observe(model, Prompt("x", (5, 400)))


def test_a_prompt_of_one_token() -> None:
    seen = observe(load(tiny("llama")), Prompt("x", (5,)))
    assert seen.mean["first_1"].tolist() == np.ones((3, 6)).tolist()
