"""Every intervention keeps the protocol: identity, chunks, caches, padding, exceptions, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache
from zoo import tiny

from headscope.probes import (
    INTERVENTIONS,
    AttentionCall,
    BadFile,
    DidNotFire,
    HeadId,
    HeadscopeError,
    Model,
    Prompt,
    Refused,
    Source,
    Spec,
    UnknownName,
    applied,
    attach,
    fit,
    load,
)
from headscope.probes.fused import attend

HEADS = [HeadId(0, 1), HeadId(1, 0), HeadId(1, 4), HeadId(2, 5)]
METHODS = ["zero", "scale", "mean", "resample", "uniform", "ph3"]
ARCHITECTURES = ["llama", "mistral-window", "gemma2", "qwen3", "gpt2", "gpt-oss"]


def ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 96, shape, generator=torch.Generator().manual_seed(seed))


def state(model: Model) -> tuple[object, ...]:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    return model.hf.config._attn_implementation, tuple(hooks)


def texts(count: int = 3, n: int = 20) -> list[Prompt]:
    return [Prompt("made_up", tuple(ids(n, seed=i).tolist())) for i in range(count)]


def spec_for(model: Model, method: str, **more: object) -> Spec:
    return fit(model, method, heads=HEADS, prompts=texts(), **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def models() -> Callable[[str], Model]:
    made: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in made:
            made[name] = load(tiny(name))
        return made[name]

    return get


def near(a: Tensor, b: Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_contract(models: Callable[[str], Model], name: str, method: str) -> None:
    """Identity; and the same logits whole, in chunks, cached, padded; nothing left behind."""
    model = models(name)
    before, prompt = state(model), ids(1, 33)
    for positions in ("all", "generated", "prompt"):
        spec = spec_for(model, method, positions=positions)
        plain = model.hf(prompt).logits
        with applied(model, spec.with_strength(1.0)):
            near(model.hf(prompt).logits, plain)
        with applied(model, spec, prompt=20):
            whole = model.hf(prompt).logits
        assert (whole - plain).abs().max() > 1e-3
        with applied(model, spec, prompt=20):
            cache = DynamicCache(config=model.hf.config)
            pieces = prompt.split([7, 1, 11, 10, 1, 1, 1, 1], 1)
            parts = [model.hf(piece, past_key_values=cache).logits for piece in pieces]
        near(torch.cat(parts, 1), whole)
        padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), prompt], 1)
        both = torch.cat([padded, ids(1, 38, seed=9)])
        mask = torch.ones_like(both)
        mask[0, :5] = 0
        at = (mask.cumsum(1) - 1).clamp_min(0)
        with applied(model, spec, prompt=torch.tensor([20, 25])):
            near(model.hf(both, attention_mask=mask, position_ids=at).logits[0, 5:], whole[0])
    assert state(model) == before


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_generated_rows_begin_with_the_one_that_writes_the_first_token(
    models: Callable[[str], Model], method: str
) -> None:
    """The last row of a prompt writes it: of 20 rows the 20th is generated, and of 1 row the only one."""
    model, tokens = models("llama"), ids(1, 33)
    plain = model.hf(tokens).logits
    with applied(model, spec_for(model, method, positions="generated"), prompt=20):
        moved = (model.hf(tokens).logits - plain).abs().amax(-1)[0]
    assert moved[:19].max() == 0 and moved[19] > 1e-4
    with applied(model, spec_for(model, method, positions="prompt"), prompt=1):
        assert torch.equal(model.hf(tokens).logits, plain)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_identity_to_1e_6(method: str) -> None:
    model = load(tiny("llama").double())
    prompt = ids(2, 30)
    with applied(model, spec_for(model, method, strength=1.0)):
        same = model.hf(prompt).logits
    torch.testing.assert_close(same, model.hf(prompt).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("positions", ["all", "generated"])
@torch.no_grad()
def test_generate_equals_whole_forwards(models: Callable[[str], Model], method: str, positions: str) -> None:
    """Cached decoding of a left-padded batch gives what repeated whole forwards give, alone."""
    model = models("llama")
    spec = spec_for(model, method, positions=positions)
    short, long = ids(1, 9, seed=3), ids(1, 14, seed=4)
    batch = torch.cat([torch.cat([torch.zeros(1, 5, dtype=torch.long), short], 1), long])
    mask = (torch.arange(14) >= torch.tensor([[5], [0]])).long()
    with applied(model, spec):
        got = model.hf.generate(
            batch, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=95, pad_token_id=0
        )
    for row, prompt in enumerate((short, long)):
        whole = prompt
        for _ in range(4):
            with applied(model, spec, prompt=prompt.shape[1]):
                following = model.hf(whole).logits[:, -1].argmax(-1, keepdim=True)
            whole = torch.cat([whole, following], 1)
        assert got[row, 14:].tolist() == whole[0, prompt.shape[1] :].tolist()


@given(
    n=st.integers(2, 40), cut=st.integers(1, 39), pad=st.integers(0, 6),
    method=st.sampled_from(METHODS), name=st.sampled_from(["llama", "mistral-window", "gpt-oss"]),
)  # fmt: skip
@settings(max_examples=25)
@torch.no_grad()
def test_cached_step_equals_prefill(
    models: Callable[[str], Model], n: int, cut: int, pad: int, method: str, name: str
) -> None:
    """prefill(n) equals prefill(cut) plus the rest, padded or not, at any cut."""
    model, cut = models(name), min(cut, n - 1)
    spec, prompt = spec_for(model, method, positions="generated"), ids(1, n, seed=n)
    with applied(model, spec, prompt=cut):
        whole = model.hf(prompt).logits
    padded = torch.cat([torch.zeros(1, pad, dtype=torch.long), prompt], 1)
    mask = (torch.arange(pad + n) >= pad).long()[None]
    with applied(model, spec, prompt=cut):
        cache = DynamicCache(config=model.hf.config)
        first = model.hf(padded[:, : pad + cut], attention_mask=mask[:, : pad + cut], past_key_values=cache)
        rest = model.hf(padded[:, pad + cut :], attention_mask=mask, past_key_values=cache)
    near(torch.cat([first.logits[:, pad:], rest.logits], 1), whole)


@torch.no_grad()
def test_zero_and_mean_equal_a_change_of_weights(models: Callable[[str], Model]) -> None:
    """Removing a head is removing its columns of W_O; its mean comes back as a bias."""
    model, prompt = models("llama"), ids(1, 12)
    width, twin = model.geometry.value_dim, load(tiny("llama"))
    mean = spec_for(model, "mean")
    outputs = torch.tensor(mean.settings["outputs"])[0]
    biases = torch.zeros(3, model.geometry.hidden)
    for head, vector in zip(HEADS, outputs, strict=True):
        columns = slice(head.head * width, (head.head + 1) * width)
        projection = twin.output_projection(head.layer)
        biases[head.layer] += projection.weight[:, columns] @ vector
        projection.weight[:, columns] = 0
    with applied(model, spec_for(model, "zero")):
        near(model.hf(prompt).logits, twin.hf(prompt).logits)
    for layer, bias in enumerate(biases):
        twin.output_projection(layer).bias = torch.nn.Parameter(bias)
    with applied(model, mean):
        near(model.hf(prompt).logits, twin.hf(prompt).logits)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma2", "gpt-oss"])
@torch.no_grad()
def test_uniform_equals_a_query_of_zeros(models: Callable[[str], Model], name: str) -> None:
    model, prompt = models(name), ids(1, 27)

    class Zeroed:
        def edit(self, call: AttentionCall) -> Tensor:
            out, even = call.output.clone(), attend(replace(call, q=torch.zeros_like(call.q)))
            for h in (h.head for h in HEADS if h.layer == call.layer):
                out[:, :, h] = even[:, :, h]
            return out

    with attach(model, Zeroed()):
        expected = model.hf(prompt).logits
    with applied(model, spec_for(model, "uniform")):
        near(model.hf(prompt).logits, expected)


@torch.no_grad()
def test_several_specs_act_together(models: Callable[[str], Model]) -> None:
    model, prompt = models("llama"), ids(1, 10)
    one, two = (fit(model, "zero", heads=heads) for heads in (HEADS[:2], HEADS[2:]))
    with applied(model, one, two):
        got = model.hf(prompt).logits
    with applied(model, spec_for(model, "zero")):
        near(got, model.hf(prompt).logits)


def test_nothing_is_left_after_an_exception() -> None:
    model = load(tiny("llama"))
    before, prompt = state(model), ids(1, 8)
    plain = model.hf(prompt).logits
    specs = spec_for(model, "zero"), spec_for(model, "uniform")
    with pytest.raises(ZeroDivisionError), applied(model, *specs):
        model.hf(prompt)
        raise ZeroDivisionError
    assert state(model) == before
    torch.testing.assert_close(model.hf(prompt).logits, plain, atol=0, rtol=0)


@pytest.mark.parametrize("method", ["zero", "uniform"])
def test_a_bypassed_layer_is_an_error(method: str) -> None:
    model = load(tiny("llama"))
    spec = spec_for(model, method)
    model.hf.model.layers[1].forward = lambda hidden_states, **_: hidden_states
    with pytest.raises(DidNotFire, match=r"layers \[1\]"), applied(model, spec):
        model.hf(ids(1, 5))
    with pytest.raises(DidNotFire, match="No forward pass"), applied(model, spec):
        pass


def test_another_model_is_refused() -> None:
    spec = spec_for(load(tiny("llama")), "zero")
    with pytest.raises(Refused, match="has other weights"), applied(load(tiny("llama", seed=1)), spec):
        pass
    with pytest.raises(Refused, match=r"3 layers of 6 heads\), and .* has another shape"):
        spec.check(load(tiny("llama-one-kv-head")))


def test_what_cannot_be_told_apart_is_refused(models: Callable[[str], Model]) -> None:
    model = models("llama")
    spec = spec_for(model, "zero", positions="generated")
    with pytest.raises(Refused, match=r"applied\(..., prompt=n\)"), applied(model, spec):
        cache = DynamicCache()
        model.hf(ids(1, 5), past_key_values=cache)
        model.hf(ids(1, 5), past_key_values=cache)
    with pytest.raises(Refused, match="ready-made mask"), applied(model, spec):
        model.hf(ids(1, 5), attention_mask=torch.ones(1, 1, 5, 5, dtype=torch.bool).tril())


def test_what_cannot_be_fitted_is_said_in_one_sentence(models: Callable[[str], Model]) -> None:
    model = models("llama")
    with pytest.raises(UnknownName, match=r"no intervention 'zeros'\. Did you mean 'zero'"):
        fit(model, "zeros", heads=["L0H0"])
    with pytest.raises(HeadscopeError, match="3 layers of 6 heads, no L3H0"):
        fit(model, "zero", heads=["L3H0"])
    with pytest.raises(HeadscopeError, match="'6-3' is not a head"):
        fit(model, "zero", heads=["6-3"])
    with pytest.raises(HeadscopeError, match="does not choose heads"):
        fit(model, "zero")
    with pytest.raises(HeadscopeError, match="settings of 'resample' are wrong: rows"):
        fit(model, "resample", heads=["L0H0"], rows=0)
    with pytest.raises(HeadscopeError, match="strength is nan; it is a finite number"):
        fit(model, "zero", heads=["L0H0"], strength=float("nan"))


heads = st.lists(
    st.builds(HeadId, st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=18, unique=True
)


@given(heads=heads, data=st.data())
@settings(max_examples=30)
def test_specs_round_trip(
    models: Callable[[str], Model], tmp_path_factory: pytest.TempPathFactory, heads: list[HeadId],
    data: st.DataObject,
) -> None:  # fmt: skip
    model = models("llama")
    strengths = data.draw(st.lists(st.floats(-5, 5), min_size=len(heads), max_size=len(heads)))
    spec = fit(
        model, data.draw(st.sampled_from(METHODS)), heads=heads, prompts=texts(1, 4),
        positions=data.draw(st.sampled_from(["all", "prompt", "generated"])),
        source=Source(headmap=data.draw(st.text(max_size=9)), column="retrieval"),
    ).with_strength(strengths)  # fmt: skip
    file = tmp_path_factory.mktemp("specs") / "spec.json"
    spec.save(file)
    assert Spec.open(file) == spec
    assert spec.opposite().opposite().strengths == pytest.approx(spec.strengths)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ('"L9H0"', "no L9H0"), ('"L0H0", "L0H0"', "named twice"), ('"x"', "not a head"),
        ('"L0H0", "L0H1"', "2 heads, but 1 strengths"),
    ],
)  # fmt: skip
def test_damaged_specs_are_refused(
    models: Callable[[str], Model], tmp_path: Path, change: str, reason: str
) -> None:
    file = tmp_path / "spec.json"
    fit(models("llama"), "zero", heads=["L0H0"]).save(file)
    text = file.read_text().replace('"L0H0"', change)
    if "twice" in reason:
        text = text.replace("0.0", "0.0, 0.0")
    file.write_text(text)
    with pytest.raises(BadFile, match=reason):
        Spec.open(file)


def test_every_method_says_what_it_does() -> None:
    assert set(METHODS) <= set(INTERVENTIONS.names())
    for method in INTERVENTIONS:
        assert method.summary and type(method).__doc__
