"""ACT finds what was planted, keeps rows whole, and is the same whole, in chunks, cached and padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache
from zoo import tiny

from headscope.probes import (
    AttentionCall,
    HeadscopeError,
    Model,
    Prompt,
    Refused,
    Spec,
    answers,
    applied,
    attach,
    fit,
    load,
    only,
)
from headscope.probes.visibility import Visibility
from headscope.sinks import SinkRule, choose_heads, sign_flip
from headscope.sinks.calibration import Tally, shift, weights_of
from headscope.sinks.interventions.act import ActSettings
from headscope.sinks.selection import first_order

HEADS = ["L0H1", "L1H0", "L1H4", "L2H5"]
EASY = {"alpha": 1.3, "min_queries": 3}  # tiny random models have no strong sinks
ARCHITECTURES = ["llama", "mistral-window", "gemma2", "qwen3", "gpt2", "gpt-oss"]


def ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 96, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def models() -> Callable[[str], Model]:
    made: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in made:
            made[name] = load(tiny(name))
        return made[name]

    return get


def act(model: Model, **more: Any) -> Spec:
    return fit(model, "act", heads=HEADS, **(EASY | more))


def near(a: Tensor, b: Tensor, atol: float = 3e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


def planted(n: int, at: Sequence[int], extra: float, seed: int, heads: int = 2) -> AttentionCall:
    """A call in which every query likes the keys `at`, and is otherwise indifferent."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, heads, n, 16, generator=generator) * 0.3 for _ in range(2))
    v = torch.randn(1, heads, n, 16, generator=generator)
    q[..., 0], k[..., 0] = 4.0, 0.0
    k[:, :, list(at), 0] = extra
    arguments = {
        "attention_mask": None, "q_offset": 0, "kv_offset": 0, "q_length": n, "kv_length": n,
        "allow_is_causal_skip": True,
    }  # fmt: skip
    weights = (q @ k.transpose(-1, -2) / 4).masked_fill(~torch.ones(n, n).tril().bool(), -torch.inf)
    output = (weights.softmax(-1) @ v).transpose(1, 2)
    return AttentionCall(0, torch.nn.Identity(), q, k, v, Visibility(arguments), 0.25, None, None, output)


def naive(call: AttentionCall, rule: SinkRule, beta: float, end: int | None) -> tuple[Tensor, list[set[int]]]:
    """The algorithm with loops over n x n weights of head 0: the output of each row, and its sinks."""
    n = call.q.shape[2]
    weights, sees = weights_of(call, 0, [0], torch.arange(n))
    a, edited, sinks = weights[0].double(), [], []
    for i in range(n):
        last = i if end is None else min(i, end - 1)
        got, even, who = (x[: last + 1].sum(0) for x in (a, sees / sees.sum(1, keepdim=True), sees))
        above = (got > rule.alpha * even) & (got > rule.least * who) & (who >= rule.min_queries)
        mine = {j for j in range(1, n) if above[j] and sees[i, j]}
        row, rest = a[i].clone(), [j for j in range(n) if j not in mine]
        freed = (1 - beta) * sum(float(row[j]) for j in mine)
        room = float(row[rest].sum())
        for j in mine:
            row[j] *= beta
        row[rest] *= 1 + freed / room
        assert float(row.sum()) == pytest.approx(float(a[i].sum()), abs=1e-9)
        edited.append(row @ call.v[0, 0].double())
        sinks.append(mine)
    return torch.stack(edited), sinks


@given(
    n=st.integers(60, 120), count=st.integers(0, 3), first=st.booleans(), seed=st.integers(0, 99),
    beta=st.floats(0, 2),
)  # fmt: skip
@settings(max_examples=15)
def test_planted_sinks_are_found_exactly(n: int, count: int, first: bool, seed: int, beta: float) -> None:
    """With and without a sink on the first token, which is never taken for a hidden one."""
    hidden = np.random.default_rng(seed).choice(np.arange(5, n - 25), count, replace=False).tolist()
    rule = SinkRule(alpha=5.0, least=0.0, min_queries=16)
    call = planted(n, hidden + [0] * first, 3.5, seed)
    expected, sinks = naive(call, rule, beta, end=None)
    assert sinks[-1] == set(hidden)
    change = shift(call, 0, [0, 1], torch.arange(n), Tally.empty(2, torch.device("cpu")), rule, None)
    got = call.output[0, :, 0] + (1 - beta) * change[:, 0]
    near(got.double(), expected)
    if not hidden:
        assert not change.any()


@pytest.mark.parametrize("n", [12, 50, 400])
def test_uniform_attention_has_no_sinks(n: int) -> None:
    """A fixed threshold of 0.1 would call most keys of a short prompt sinks."""
    call = planted(n, [], 0.0, 0)
    rule = SinkRule(alpha=2.0, least=0.0, min_queries=1)
    tally = Tally.empty(2, torch.device("cpu"))
    assert not shift(call, 0, [0, 1], torch.arange(n), tally, rule, None).any()
    if n == 12:
        assert float((tally.received[0] / tally.seen > 0.1).float().mean()) > 0.5


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_contract(models: Callable[[str], Model], name: str, freeze: bool) -> None:
    model, prompt = models(name), ids(1, 33)
    plain = model.hf(prompt).logits
    with applied(model, act(model, strength=1.0, freeze=freeze), prompt=20):
        near(model.hf(prompt).logits, plain)
    for positions in ("all", "generated"):
        spec = act(model, positions=positions, freeze=freeze)
        with applied(model, spec, prompt=20):
            whole = model.hf(prompt).logits
        assert (whole - plain).abs().max() > 1e-3
        with applied(model, spec, prompt=20):
            cache = DynamicCache(config=model.hf.config)
            pieces = prompt.split([7, 1, 11, 10, 1, 1, 1, 1], 1)
            parts = [model.hf(piece, past_key_values=cache).logits for piece in pieces]
        near(torch.cat(parts, 1), whole)
        both = torch.cat([torch.cat([torch.zeros(1, 5, dtype=torch.long), prompt], 1), ids(1, 38, seed=9)])
        mask = (torch.arange(38) >= torch.tensor([[5], [0]])).long()
        at = (mask.cumsum(1) - 1).clamp_min(0)
        with applied(model, spec, prompt=torch.tensor([20, 25])):
            near(model.hf(both, attention_mask=mask, position_ids=at).logits[0, 5:], whole[0])


@pytest.mark.parametrize("name", ["mistral-window", "gemma2", "gpt-oss"])
@torch.no_grad()
def test_rows_of_real_calls_equal_loops(models: Callable[[str], Model], name: str) -> None:
    """Windows, soft-capped scores, learned sinks beside the keys."""
    model, rule = models(name), SinkRule(**EASY, least=0.0)
    calls: list[AttentionCall] = []

    class Keep:
        def see(self, call: AttentionCall) -> None:
            calls.append(call)

    with attach(model, Keep()):
        model.hf(ids(1, 30))
    for call in calls:
        for end in (None, 22):
            expected, _ = naive(call, rule, 0.4, end)
            tally = Tally.empty(1, torch.device("cpu"))
            change = shift(call, 0, [0], torch.arange(30), tally, rule, end)
            near((call.output[0, :, 0] + 0.6 * change[:, 0]).double(), expected)


@torch.no_grad()
def test_generate_equals_whole_forwards(models: Callable[[str], Model]) -> None:
    model = models("llama")
    spec, prompt = act(model), ids(1, 14, seed=4)
    with applied(model, spec):
        got = model.hf.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False,
            eos_token_id=95, pad_token_id=0,
        )  # fmt: skip
    whole = prompt
    for _ in range(5):
        with applied(model, spec, prompt=14):
            whole = torch.cat([whole, model.hf(whole).logits[:, -1:].argmax(-1)], 1)
    assert got.tolist() == whole.tolist()


def test_what_cannot_be_right_is_refused(models: Callable[[str], Model]) -> None:
    model, cache = models("llama"), DynamicCache()
    with pytest.raises(Refused, match="ACT keeps the sinks of the prompt"), applied(model, act(model)):
        for _ in range(2):
            model.hf(ids(1, 5), past_key_values=cache)
    with (
        pytest.raises(Refused, match="from its first token"),
        applied(model, act(model), prompt=10),
    ):
        model.hf(ids(1, 5), past_key_values=cache)
    with pytest.raises(HeadscopeError, match="at least 4 prompts"):
        fit(model, "act")
    with pytest.raises(HeadscopeError, match="settings of 'act' are wrong: alpha"):
        act(model, alpha=0)


def made_up(n: int, seed: int) -> Prompt:
    return Prompt("made_up", tuple(ids(n, seed=seed).tolist()), answer=(n - 2, n))


def test_first_order_gains_are_the_slope_of_exact_ones(models: Callable[[str], Model]) -> None:
    model, prompt = models("llama"), made_up(30, 3)
    near_one = act(model, strength=0.95)
    slope = first_order(model, near_one, prompt)
    variants = [(), *((only(near_one, [h]),) for h in near_one.heads)]
    exact = answers(model, [prompt], variants).logprob[:, 0]  # type: ignore[arg-type]
    np.testing.assert_allclose(slope, exact[1:] - exact[0], rtol=0.1, atol=3e-6)
    assert np.abs(slope).max() > 1e-4


def test_heads_are_chosen_on_one_half_and_judged_on_the_other(models: Callable[[str], Model]) -> None:
    model, prompts = models("llama"), [made_up(30, seed) for seed in range(6)]
    found = choose_heads(model, prompts, "act", ActSettings(**EASY), 0.4, screened=4, seed=0)
    assert set(found.heads) <= set(found.alone) and len(found.alone) == 4
    assert all(h.layer == 2 for h in found.alone)  # of three layers, the first two are left out
    spec = fit(model, "act", heads=found.heads, **EASY)
    exact = answers(model, prompts[1::2], [(), (spec,)]).logprob
    np.testing.assert_allclose(found.joint, exact[1] - exact[0], atol=1e-5)
    assert found.sentence.startswith(f"{len(found.heads)} of 4 screened heads")
    learned = fit(model, "act", prompts=prompts, screened=4, **EASY)
    assert learned.heads == found.heads and learned.source.note == found.sentence


def test_sign_flips_know_chance_from_effect() -> None:
    rng = np.random.default_rng(0)
    assert sign_flip(np.full((1, 10), 1.0) + rng.normal(0, 0.1, (1, 10)), 0) < 0.005
    noise = [sign_flip(rng.normal(0, 1, (6, 8)), i) for i in range(100)]
    assert 0.3 < np.mean(noise) < 0.7 and np.mean(np.array(noise) < 0.1) < 0.2
    assert sign_flip(np.zeros((2, 5)), 0) == 1.0
