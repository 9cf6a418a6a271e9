"""The seam changes nothing, misses nothing, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from zoo import tiny

from headscope.probes import AttentionCall, DidNotFire, Model, Refused, attach, load


class Count:
    """An observer that counts what it sees."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []

    def see(self, call: AttentionCall) -> None:
        self.calls.append((call.layer, call.q.shape[2], call.k.shape[2]))


class Silence:
    """An editor that removes a head's output."""

    def __init__(self, layer: int, head: int) -> None:
        self.layer, self.head = layer, head

    def edit(self, call: AttentionCall) -> Tensor:
        if call.layer != self.layer:
            return call.output
        out = call.output.clone()
        out[:, :, self.head] = 0
        return out


def ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 96, shape, generator=torch.Generator().manual_seed(seed))


def state(model: Model) -> tuple[object, ...]:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    return model.hf.config._attn_implementation, tuple(hooks)


@torch.no_grad()
def test_attached_equals_plain(any_model: Model) -> None:
    prompt = ids(2, 37)
    eager = any_model.hf
    eager.set_attn_implementation("eager")
    plain = eager(prompt).logits
    with attach(any_model, Count()):
        seen = any_model.hf(prompt).logits
    torch.testing.assert_close(seen, plain, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_generate_with_cache_and_left_padding(any_model: Model) -> None:
    prompt = ids(2, 21)
    padded = prompt.clone()
    padded[1, :6] = 0
    mask = torch.ones_like(padded)
    mask[1, :6] = 0
    options = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    any_model.hf.generation_config.eos_token_id = None
    any_model.hf.set_attn_implementation("eager")
    plain = any_model.hf.generate(padded, **options)
    count = Count()
    with attach(any_model, count):
        seen = any_model.hf.generate(padded, **options)
    assert seen.tolist() == plain.tolist()
    steps = [q for layer, q, _ in count.calls if layer == 0]
    assert steps == [21, 1, 1, 1, 1]


def test_restores_after_an_exception() -> None:
    model = load(tiny("gemma3"))
    before = state(model)
    with pytest.raises(ZeroDivisionError), attach(model, Count()):
        model.hf(ids(1, 5))
        raise ZeroDivisionError
    assert state(model) == before
    with attach(model, Count()):  # and can be attached again
        model.hf(ids(1, 5))
    assert state(model) == before


def test_a_bypassed_layer_is_an_error() -> None:
    model = load(tiny("llama"))
    model.hf.model.layers[1].forward = lambda hidden_states, **_: hidden_states
    with pytest.raises(DidNotFire, match=r"layers \[1\]"), attach(model, Count()):
        model.hf(ids(1, 5))


def test_no_forward_pass_is_an_error() -> None:
    with pytest.raises(DidNotFire, match="No forward pass"), attach(load(tiny("llama")), Count()):
        pass


def test_two_attachments_are_refused() -> None:
    model = load(tiny("llama"))
    with attach(model, Count()):
        with pytest.raises(Refused, match="already"), attach(model, Count()):
            pass
        model.hf(ids(1, 5))


def test_two_models_at_once() -> None:
    a, b = load(tiny("llama")), load(tiny("qwen3"))
    seen_a, seen_b = Count(), Count()
    with attach(a, seen_a), attach(b, seen_b):
        a.hf(ids(1, 5))
        b.hf(ids(1, 9))
    assert {q for _, q, _ in seen_a.calls} == {5}
    assert {q for _, q, _ in seen_b.calls} == {9}


@torch.no_grad()
def test_an_editor_acts_on_one_head_only() -> None:
    """Zeroing a head at the seam equals zeroing its slice of W_O's input."""
    model = load(tiny("llama"))
    prompt, layer, head = ids(1, 12), 1, 4
    with attach(model, Silence(layer, head)):
        edited = model.hf(prompt).logits
    width = model.geometry.value_dim

    def cut(_: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].clone()
        z[..., head * width : (head + 1) * width] = 0
        return (z,)

    handle = model.output_projection(layer).register_forward_pre_hook(cut)
    expected = model.hf(prompt).logits
    handle.remove()
    torch.testing.assert_close(edited, expected)
    assert not torch.allclose(edited, model.hf(prompt).logits)


def test_a_ready_made_mask_is_refused() -> None:
    model = load(tiny("llama"))
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    with pytest.raises(Refused, match="ready-made mask"), attach(model, Count()):
        model.hf(ids(1, 5), attention_mask=mask)


def test_training_with_dropout_is_refused() -> None:
    model = load(tiny("gpt2"))
    model.hf.train()
    with pytest.raises(Refused, match="training mode"), attach(model, Count()):
        model.hf(ids(1, 5))
