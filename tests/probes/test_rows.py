"""Row statistics equal what eager attention says, in whole, in chunks, padded and cached."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache
from zoo import eager_attentions, tiny

from headscope.kernels import RowStatistics
from headscope.probes import DidNotFire, Model, RowObserver, Watch, attach, load

WATCH = Watch(first=(1, 4), recent=(1, 3, 16), keep=((2, 5), (1, 40)), top=3)
OFFSETS = {"previous": (1,), "far": (7, 11)}


def ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 96, shape, generator=torch.Generator().manual_seed(seed))


def every_row(n: int, batch: int = 1) -> Tensor:
    return torch.arange(n).expand(batch, n).clone()


def observer(rows: Tensor) -> RowObserver:
    spans = {"middle": torch.tensor([[3, 9]]).expand(len(rows), 2)}
    return RowObserver(rows, WATCH, spans=spans, offsets=OFFSETS)


@torch.no_grad()
def observed(model: Model, rows: Tensor, **inputs: Tensor) -> RowObserver:
    seen = observer(rows)
    with attach(model, seen):
        model.hf(**inputs)
    seen.check()
    return seen


def same(a: RowStatistics, b: RowStatistics, tolerance: float, rows: Tensor | None = None) -> None:
    """Every statistic agrees; `rows` picks columns of `a`."""
    for name in (f.name for f in fields(RowStatistics)):
        x, y = getattr(a, name), getattr(b, name)
        if rows is not None and name != "received":
            x = x[:, :, rows]
        if name == "top_key":  # ties may be broken either way; the masses are compared below
            continue
        torch.testing.assert_close(
            x, y, atol=tolerance, rtol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


def mass_before(prefix: Tensor, key: Tensor) -> Tensor:
    """Mass of row r on the keys before `key[r]`, from prefix sums. [B, H, R]"""
    index = key.clamp_min(0).view(1, 1, -1, 1).expand(*prefix.shape[:3], 1)
    return prefix.gather(-1, index)[..., 0]


@torch.no_grad()
def test_every_statistic_equals_eager(any_model: Model) -> None:
    n = 45
    inputs = {"input_ids": ids(1, n)}
    seen = observed(any_model, every_row(n), **inputs)
    truth = eager_attentions(any_model.hf, **inputs)
    learned = any(hasattr(m, "sinks") for m in any_model.attention_modules)
    for layer, weights in enumerate(truth):
        p, got = weights.double(), seen.layers[layer]
        prefix = torch.nn.functional.pad(p.cumsum(-1), (1, 0))
        row = torch.arange(n)
        width = any_model.geometry.windows[layer] or n
        # Windows end at the row; with a sliding layer the keys before it weigh nothing anyway.
        recent = [mass_before(prefix, row + 1) - mass_before(prefix, row + 1 - w) for w in WATCH.recent]
        rest = (1 - p.sum(-1)).clamp_min(0) * learned
        entropy = -torch.special.xlogy(p, p).sum(-1) - torch.special.xlogy(rest, rest)
        previous = torch.cat([p.new_full((*p.shape[:2], 1), torch.nan), p.diagonal(-1, 2, 3)], -1)
        near = {"atol": 1e-4, "rtol": 0, "equal_nan": True, "check_dtype": False}
        torch.testing.assert_close(
            got.first, torch.stack([p[..., :1].sum(-1), p[..., :4].sum(-1)], -1), **near
        )
        torch.testing.assert_close(got.recent, torch.stack(recent, -1), **near)
        torch.testing.assert_close(got.span[..., 0], p[..., 3:9].sum(-1), **near)
        torch.testing.assert_close(got.entropy, entropy, **near)
        torch.testing.assert_close(got.top_mass[..., 0], p.amax(-1), **near)
        torch.testing.assert_close(p.gather(-1, got.top_key[..., :1])[..., 0], p.amax(-1), **near)
        torch.testing.assert_close(got.received, p.sum(2), atol=1e-3, rtol=0, check_dtype=False)
        visible_previous = previous if width > 1 else torch.full_like(previous, torch.nan)
        torch.testing.assert_close(got.offset[..., 0], visible_previous, **near)


@torch.no_grad()
def test_output_and_cut_output_equal_eager(any_model: Model) -> None:
    """The row's output is the module's own, and the cut one a softmax over sink + window alone."""
    n, calls = 40, {}

    class Keep:
        def see(self, call: object) -> None:
            calls[call.layer] = call  # type: ignore[attr-defined]

    seen = observer(every_row(n))
    with attach(any_model, Keep(), seen):
        any_model.hf(ids(1, n))
    truth = eager_attentions(any_model.hf, input_ids=ids(1, n))
    for layer, call in calls.items():
        got = seen.layers[layer]
        torch.testing.assert_close(got.output, call.output.transpose(1, 2), atol=1e-4, rtol=1e-4)
        p = truth[layer].double()
        key, row = torch.arange(n), torch.arange(n)[:, None]
        v = call.v.double().repeat_interleave(any_model.geometry.group_size, 1)
        for c, (sink, window) in enumerate(WATCH.keep):
            kept = p * ((key < sink) | (key > row - window))
            rest = (1 - p.sum(-1, keepdim=True)).clamp_min(0)
            rest = rest if call.sinks is not None else 0.0
            cut = kept / (kept.sum(-1, keepdim=True) + rest) @ v
            torch.testing.assert_close(got.kept_mass[..., c].double(), kept.sum(-1), atol=1e-4, rtol=0)
            # Where almost nothing is kept, the renormalised output is ill-defined.
            fair = kept.sum(-1) > 1e-3
            torch.testing.assert_close(
                got.kept_output[..., c, :].double()[fair], cut[fair], atol=2e-3, rtol=1e-2
            )


@torch.no_grad()
def test_chunked_prefill_equals_whole(any_model: Model) -> None:
    n, rows = 43, torch.tensor([[0, 5, 17, 18, 29, 42]])
    prompt = ids(1, n)
    whole = observed(any_model, rows, input_ids=prompt)
    for size in (1, 7, 16):
        seen, cache = observer(rows), DynamicCache(config=any_model.hf.config)
        with attach(any_model, seen):
            for part in prompt.split(size, 1):
                any_model.hf(part, past_key_values=cache, use_cache=True)
        seen.check()
        for layer in whole.layers:
            same(whole.layers[layer], seen.layers[layer], 1e-4)


@torch.no_grad()
def test_padded_batch_equals_single(any_model: Model) -> None:
    n, short = 31, 20
    long_prompt, short_prompt = ids(1, n), ids(1, short, seed=2)
    rows = torch.tensor([[0, 3, 11, 19], [19, 1, 12, 4]])
    gap = torch.zeros(1, n - short, dtype=torch.long)
    for side in ("left", "right"):
        padded = torch.cat([gap, short_prompt] if side == "left" else [short_prompt, gap], 1)
        mask = (torch.cat([gap, torch.ones_like(short_prompt)] if side == "left"
                          else [torch.ones_like(short_prompt), gap], 1))  # fmt: skip
        both = {
            "input_ids": torch.cat([long_prompt, padded]),
            "attention_mask": torch.cat([torch.ones(1, n, dtype=torch.long), mask]),
        }
        both["position_ids"] = (both["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        batch = observed(any_model, rows, **both)
        alone = observed(any_model, rows[1:], input_ids=short_prompt)
        for layer in batch.layers:
            for name in (f.name for f in fields(RowStatistics) if f.name not in ("received", "top_key")):
                x, y = getattr(batch.layers[layer], name)[1:], getattr(alone.layers[layer], name)
                torch.testing.assert_close(x, y, atol=2e-4, rtol=0, equal_nan=True, msg=f"{side} {name}")
            received = batch.layers[layer].received[1, :, :short]
            torch.testing.assert_close(received, alone.layers[layer].received[0], atol=1e-3, rtol=0)


@torch.no_grad()
def test_rows_of_generated_tokens(any_model: Model) -> None:
    """Rows that only exist while decoding equal those of one prefill over the same tokens."""
    any_model.hf.generation_config.eos_token_id = None
    prompt = ids(1, 19)
    rows = torch.tensor([[2, 18, 19, 22]])
    seen = observer(rows)
    with attach(any_model, seen):
        text = any_model.hf.generate(prompt, max_new_tokens=5, do_sample=False, pad_token_id=0)
    seen.check()
    whole = observed(any_model, rows, input_ids=text[:, :-1])
    for layer in whole.layers:
        same(whole.layers[layer], seen.layers[layer], 1e-4)


def test_a_row_that_never_comes_is_an_error() -> None:
    model = load(tiny("llama"))
    with pytest.raises(DidNotFire, match=r"Rows \[30\]"):
        observed(model, torch.tensor([[3, 30]]), input_ids=ids(1, 20))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 99),
    chunk=st.integers(1, 4000),
    name=st.sampled_from(["llama", "gemma2", "gpt-oss", "mistral-window"]),
)
def test_masses_are_masses(n: int, seed: int, chunk: int, name: str) -> None:
    """On any length, row choice and chunk size: ranges, order, and independence of the chunk."""
    model = load(tiny(name))
    count = torch.randint(1, n + 1, (1,), generator=torch.Generator().manual_seed(seed)).item()
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count][None]
    prompt = ids(1, n, seed=seed)
    results = []
    for elements in (chunk, None):
        seen = observer(rows)
        seen.watch = WATCH.model_copy(update={"chunk_elements": elements})
        with torch.no_grad(), attach(model, seen):
            model.hf(prompt)
        results.append(seen)
    for layer, s in results[0].layers.items():
        same(s, results[1].layers[layer], 2e-5)
        for mass in (s.first, s.recent, s.span, s.top_mass, s.kept_mass):
            assert float(mass.min()) >= -1e-6
            assert float(mass.max()) <= 1 + 1e-5
        assert float(s.entropy.min()) >= -1e-5
        assert bool((s.recent.diff(dim=-1) >= -1e-6).all())
        assert bool((s.top_mass.diff(dim=-1) <= 1e-6).all())
        assert bool((s.top_key <= rows[:, None, :, None]).all())
