"""A policy at work: the same logits however the tokens come in, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, StaticCache
from zoo import tiny

from headscope.heads import Origin, Policy, Window, kv_bytes
from headscope.probes import HeadscopeError, Model, Refused, load

TOLERANCE = 2e-4  # float32 logits of a few units


def policy_for(model: Model, windows: list[Window | None]) -> Policy:
    """Query heads take the windows in turn, over all layers without a window of their own."""
    g, reads = model.geometry, []
    for layer, own in enumerate(g.windows):
        row = [windows[(layer * g.heads + h) % len(windows)] for h in range(g.heads)]
        reads.append(tuple(None if own is not None else span for span in row))

    def union(spans: tuple[Window | None, ...]) -> Window | None:
        held = [s for s in spans if s is not None]
        if len(held) < len(spans):
            return None
        return Window(sink=max(s.sink for s in held), recent=max(s.recent for s in held))

    size = g.group_size
    kept = [tuple(union(row[i * size : (i + 1) * size]) for i in range(g.kv_heads)) for row in reads]
    return Policy(
        model=model.name, fingerprint=model.fingerprint, geometry=g, retain=tuple(kept),
        compute=tuple(reads), origin=Origin(by="test"),
    )  # fmt: skip


MIXED = [None, Window(sink=2, recent=5), Window(sink=3, recent=4), Window(sink=0, recent=1)]
STREAM = [Window(sink=2, recent=5)]


def eager_policy(model: Model, policy: Policy, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits by the model's own eager attention, the policy written into a 4-dimensional mask per head."""
    n = ids.shape[1]
    first = torch.zeros(len(ids), dtype=torch.long) if mask is None else mask.argmax(-1)
    i, j = torch.arange(n)[:, None], torch.arange(n)[None]

    def allowed(span: Window | None, own: int | None) -> Tensor:
        seen = (j <= i) & (j >= first[:, None, None])
        if own is not None:
            seen &= j > i - own
        if span is not None:
            seen = seen & ((j < first[:, None, None] + span.sink) | (j > i - span.recent))
        return seen

    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    handles = []
    for layer, module in enumerate(model.attention_modules):
        spans, own = policy.compute[layer], model.geometry.windows[layer]
        keep = torch.stack([allowed(span, own) for span in spans], 1)
        bias = torch.zeros(keep.shape).masked_fill(~keep, torch.finfo(torch.float32).min)

        def put(_: object, args: tuple, kwargs: dict, bias: Tensor = bias) -> tuple:
            if "attention_mask" in kwargs:
                return args, kwargs | {"attention_mask": bias}
            return (args[0], bias, *args[2:]), kwargs

        handles.append(module.register_forward_pre_hook(put, with_kwargs=True))
    try:
        with torch.no_grad():
            return model.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
        model.hf.set_attn_implementation(before)


def run(model: Model, policy: Policy, ids: Tensor, cuts: list[int], mask: Tensor | None = None) -> Tensor:
    """Logits of a sequence fed in pieces."""
    edges, parts = [0, *cuts, ids.shape[1]], []
    with policy.attach(model) as serving, torch.no_grad():
        cache = serving.cache()
        for a, b in pairwise(edges):
            if a < b:
                seen = None if mask is None else mask[:, :b]
                position = None if mask is None else (mask.cumsum(-1) - 1).clamp_min(0)[:, a:b]
                out = model.hf(
                    input_ids=ids[:, a:b], attention_mask=seen, position_ids=position, past_key_values=cache
                )
                parts.append(out.logits)
    return torch.cat(parts, 1)


@pytest.fixture(scope="module")
def llama() -> Model:
    return load(tiny("llama"))


def ids_for(model: Model, n: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randint(
        3, model.geometry.vocabulary, (batch, n), generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("windows", [MIXED, STREAM, [None]], ids=["mixed", "stream", "full"])
def test_every_architecture_agrees_with_its_own_eager_attention(any_model: Model, windows: list) -> None:
    policy, ids = policy_for(any_model, windows), ids_for(any_model, 33)
    expected = eager_policy(any_model, policy, ids)
    torch.testing.assert_close(run(any_model, policy, ids, []), expected, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(run(any_model, policy, ids, [7, 20, 21]), expected, atol=2e-3, rtol=1e-3)


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(1, 39), unique=True, max_size=6).map(sorted),
    windows=st.lists(
        st.one_of(st.none(), st.builds(Window, sink=st.integers(0, 4), recent=st.integers(1, 9))),
        min_size=1, max_size=4,
    ),
)  # fmt: skip
def test_logits_do_not_depend_on_the_chunks(llama: Model, cuts: list[int], windows: list) -> None:
    policy, ids = policy_for(llama, windows), ids_for(llama, 40)
    whole = run(llama, policy, ids, [])
    torch.testing.assert_close(run(llama, policy, ids, cuts), whole, atol=TOLERANCE, rtol=1e-4)


@settings(max_examples=15)
@given(
    cuts=st.lists(st.integers(1, 29), unique=True, max_size=5).map(sorted),
    pads=st.lists(st.integers(0, 18), min_size=2, max_size=3),
)
def test_padded_sequences_behave_as_single_ones(llama: Model, cuts: list[int], pads: list[int]) -> None:
    policy, ids = policy_for(llama, MIXED), ids_for(llama, 30, len(pads))
    mask = torch.ones_like(ids)
    for b, pad in enumerate(pads):
        mask[b, :pad] = 0
    together = run(llama, policy, ids, cuts, mask)
    for b, pad in enumerate(pads):
        alone = run(llama, policy, ids[b : b + 1, pad:], [])
        torch.testing.assert_close(together[b : b + 1, pad:], alone, atol=TOLERANCE, rtol=1e-4)


def greedy(model: Model, logits: Callable[[Tensor], Tensor], ids: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        ids = torch.cat([ids, logits(ids)[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.parametrize("chunk", [None, 1, 6], ids=str)
def test_generate_is_greedy_decoding_under_the_policy(llama: Model, chunk: int | None) -> None:
    policy, ids = policy_for(llama, MIXED), ids_for(llama, 21)
    expected = greedy(llama, lambda x: run(llama, policy, x, []), ids, 12)
    with policy.attach(llama):
        made = llama.hf.generate(
            ids, max_new_tokens=12, min_new_tokens=12, do_sample=False, prefill_chunk_size=chunk
        )
    assert made.tolist() == expected.tolist()


def test_generate_pads_and_searches_beams(llama: Model) -> None:
    policy, ids = policy_for(llama, STREAM), ids_for(llama, 20, 2)
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    with policy.attach(llama):
        made = llama.hf.generate(ids, attention_mask=mask, **options)
        alone = llama.hf.generate(ids[1:, 9:], **options)
        beams = llama.hf.generate(ids, attention_mask=mask, num_beams=3, **options)
        beam = llama.hf.generate(ids[1:, 9:], num_beams=3, **options)
    assert made[1, 20:].tolist() == alone[0, 11:].tolist()
    assert beams[1, 20:].tolist() == beam[0, 11:].tolist()


@torch.no_grad()
@pytest.mark.parametrize("windows", [MIXED, STREAM, [None]], ids=["mixed", "stream", "full"])
@pytest.mark.parametrize("pad", [0, 5])
def test_steps_are_greedy_decoding(llama: Model, windows: list[Window | None], pad: int) -> None:
    """Keys go where the clock says, beyond the slots made ready, and the cache can be used afterwards."""
    policy, ids, made = policy_for(llama, windows), ids_for(llama, 20, 2), []
    mask = torch.ones_like(ids)
    mask[1, :pad] = 0
    options = {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False}
    with policy.attach(llama) as served:
        want = llama.hf.generate(ids, attention_mask=mask, **options)[:, 20:]
        cache = served.cache()
        place = (mask.cumsum(-1) - 1).clamp_min(0)  # as `generate` counts
        logits = llama.hf(ids, attention_mask=mask, position_ids=place, past_key_values=cache).logits[:, -1]
        with served.steps(cache, room=3) as step:
            for _ in range(7):
                made.append(logits.argmax(-1, keepdim=True))
                logits = step(made[-1])
        made.append(logits.argmax(-1, keepdim=True))
        position = (cache.get_seq_length() - (1 - mask).sum(-1))[:, None]
        logits = llama.hf(made[-1], past_key_values=cache, position_ids=position).logits[:, -1]
        made.append(logits.argmax(-1, keepdim=True))
    assert torch.cat(made, 1).tolist() == want.tolist()


def test_steps_need_a_filled_cache(llama: Model) -> None:
    with policy_for(llama, MIXED).attach(llama) as served:
        llama.hf(ids_for(llama, 4))
        with pytest.raises(Refused, match="The cache is empty"):
            served.steps(served.cache())
        with pytest.raises(HeadscopeError, match="room is 0"):
            served.steps(served.cache(), room=0)
        cache = served.cache()
        llama.hf(ids_for(llama, 4), past_key_values=cache)
        with served.steps(cache) as step, pytest.raises(HeadscopeError, match=r"\[2, 1\]; .*, \[1, 1\]"):
            step(torch.zeros(2, 1, dtype=torch.long))


def test_the_cache_holds_what_the_policy_says(llama: Model) -> None:
    g, n = llama.geometry, 200
    policy = policy_for(llama, STREAM)
    with policy.attach(llama) as serving, torch.no_grad():
        cache = serving.cache()
        llama.hf(input_ids=ids_for(llama, n), past_key_values=cache)
        assert kv_bytes(cache) == policy.kv_bytes(n, itemsize=4)
        assert kv_bytes(cache) == g.layers * g.kv_heads * 7 * 2 * g.head_dim * 4
    plain = DynamicCache(config=llama.hf.config)
    with torch.no_grad():
        llama.hf(input_ids=ids_for(llama, n), past_key_values=plain)
    assert kv_bytes(cache) / kv_bytes(plain) == pytest.approx(policy.kv_share(n))


@pytest.fixture
def untouched(llama: Model) -> Iterator[None]:
    """Afterwards the model computes what it computed before, and nothing hangs on it."""
    ids = ids_for(llama, 15)

    def state() -> tuple[Tensor, str, int]:
        with torch.no_grad():
            logits = llama.hf(input_ids=ids).logits
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.hf.modules())
        return logits, llama.hf.config._attn_implementation, hooks

    before = state()
    yield
    after = state()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.usefixtures("untouched")
def test_detaching_leaves_the_model_as_it_was(llama: Model) -> None:
    serving = policy_for(llama, MIXED).attach(llama)
    llama.hf.generate(ids_for(llama, 9), max_new_tokens=3, do_sample=False)
    serving.detach()
    with pytest.raises(ZeroDivisionError), policy_for(llama, MIXED).attach(llama):
        raise ZeroDivisionError


@pytest.mark.usefixtures("untouched")
def test_what_cannot_be_served_is_refused(llama: Model) -> None:
    policy, ids = policy_for(llama, MIXED), ids_for(llama, 9)
    filled = DynamicCache(config=llama.hf.config)
    with torch.no_grad():
        llama.hf(input_ids=ids, past_key_values=filled)
    cases = [
        ({"past_key_values": filled}, "filled before the policy was attached"),
        ({"past_key_values": StaticCache(llama.hf.config, max_cache_len=32)}, "needs a DynamicCache"),
        ({"attention_mask": torch.tensor([[1] * 7 + [0, 0]])}, "padded on the left"),
        ({"attention_mask": torch.ones(1, 1, 9, 9)}, "2-dimensional attention_mask"),
    ]
    for arguments, says in cases:
        with pytest.raises(Refused, match=says), policy.attach(llama), torch.no_grad():
            llama.hf(input_ids=ids, **arguments)


@pytest.mark.usefixtures("untouched")
def test_a_cache_goes_on_under_its_own_policy_only(llama: Model) -> None:
    ids = ids_for(llama, 12)
    whole = run(llama, policy_for(llama, STREAM), ids, [])
    with policy_for(llama, STREAM).attach(llama) as serving, torch.no_grad():
        cache = serving.cache()
        llama.hf(input_ids=ids[:, :9], past_key_values=cache)
    with pytest.raises(Refused, match="made for another policy"), policy_for(llama, MIXED).attach(llama):
        llama.hf(input_ids=ids[:, 9:], past_key_values=cache)
    with policy_for(llama, STREAM).attach(llama), torch.no_grad():
        later = llama.hf(input_ids=ids[:, 9:], past_key_values=cache).logits
    torch.testing.assert_close(later, whole[:, 9:], atol=TOLERANCE, rtol=1e-4)


@pytest.mark.usefixtures("untouched")
def test_a_cache_that_outlived_its_policy_says_so(llama: Model) -> None:
    with policy_for(llama, STREAM).attach(llama) as serving, torch.no_grad():
        cache = serving.cache()
        llama.hf(input_ids=ids_for(llama, 9), past_key_values=cache)
    with pytest.raises(RuntimeError, match="only while the policy"), torch.no_grad():
        for _ in range(2):
            llama.hf(input_ids=ids_for(llama, 1), past_key_values=cache)


def test_a_policy_for_another_model_is_refused(llama: Model) -> None:
    policy = policy_for(llama, STREAM)
    with pytest.raises(HeadscopeError, match="made for other weights"):
        policy.attach(load(tiny("llama", seed=1)))
    with pytest.raises(HeadscopeError, match=r"6 query and 2 KV heads of width 8.*6 query and 1 KV heads"):
        policy.attach(load(tiny("llama-one-kv-head")))
