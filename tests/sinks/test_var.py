"""VAR moves exactly what it says, in the rows and layers it says, however the text comes in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from vlm_zoo import tiny_vlm, tokenizer
from zoo import eager_attentions, tiny

from headscope.probes import (
    Model,
    Picture,
    Prompt,
    Refused,
    Spec,
    applied,
    attach,
    fit,
    generate,
    load,
    residual_stream,
)
from headscope.sinks import find_dimensions
from headscope.sinks.interventions.var import VarSettings, changed

LAYERS, WIDTH, DIMENSION, SIDE = 5, 64, 17, 4
BORDER = [i for i in range(SIDE**2) if {i // SIDE, i % SIDE} & {0, SIDE - 1}]
EASY = {"min_nonsink_ratio": 0.0, "min_image_mass": 0.0}


@pytest.fixture(scope="module")
def planted() -> Model:
    """A LLaVA whose border patches, and whose first token, carry one huge component."""
    torch.manual_seed(0)
    small, _, eyes = tiny_vlm("llava")
    text = tf.LlamaConfig(
        vocab_size=96, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = tf.LlavaConfig(
        vision_config=small.config.vision_config, text_config=text,
        image_token_index=small.config.image_token_index,
    )  # fmt: skip
    hf = tf.LlavaForConditionalGeneration(config).eval()
    hf.generation_config.eos_token_id = None
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "language_model" in name and parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(3.0)
        hf.get_input_embeddings().weight[1, DIMENSION] = 40.0
    hf.model.multi_modal_projector.register_forward_hook(_plant)
    return load(hf, tokenizer=tokenizer(), image_processor=eyes)


def _plant(_: object, args: object, features: torch.Tensor) -> torch.Tensor:
    out = features.clone()
    out[:, BORDER, DIMENSION] += 40.0
    return out


def asked(model: Model, words: str = "what is in the picture", color: str = "red") -> Prompt:
    assert model.vision
    return model.vision.prompt(words, [Picture.open(Image.new("RGB", (40, 40), color))])


def spec(model: Model, **settings: object) -> Spec:
    return fit(model, "var", prompts=[asked(model)], factor=0.5, **(EASY | settings))


class Inputs:
    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def see(self, hidden: torch.Tensor) -> None:
        self.found.append(hidden)


@torch.no_grad()
def test_the_planted_dimension_and_the_planted_sinks_are_found_exactly(planted: Model) -> None:
    prompt, inputs = asked(planted), Inputs()
    found = find_dimensions(planted, [prompt], factor=0.5)
    assert found.dims == (DIMENSION,)
    with residual_stream(planted, inputs):
        planted.hf(**planted.inputs([prompt]))
    start, stop = prompt.spans["image"]
    for layer, hidden in enumerate(inputs.found):
        sinks = found.sinks(layer, hidden)[0]
        wanted = BORDER if layer >= 2 else []
        assert sinks[start:stop].nonzero()[:, 0].tolist() == wanted
        assert sinks.sum() - sinks[start:stop].sum() == (layer >= 2), "and the first token"


@given(
    st.integers(1, 9),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 0.6),
    st.floats(-1, 2),
    st.integers(0, 99),
)
def test_mass_moves_as_stated(
    rows: int, fraction: float, ratio: float, least: float, kept: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    weights = (3 * torch.randn(2, rows, 12, generator=random)).double().softmax(-1)
    image, sinks = (torch.rand(12, generator=random) < 0.5 for _ in range(2))
    settings = VarSettings(take_fraction=fraction, min_nonsink_ratio=ratio, min_image_mass=least)
    new = weights + changed(weights, image, sinks, settings, kept)
    torch.testing.assert_close(new.sum(-1), weights.sum(-1))
    assert torch.equal(new[..., ~image & ~sinks], weights[..., ~image & ~sinks])
    mass, free = weights[..., image].sum(-1), weights[..., image & ~sinks].sum(-1)
    centric = (mass >= least) & (free >= ratio * mass) & (free > 1e-6)
    taken = weights[..., sinks].sum(-1) - new[..., sinks].sum(-1)
    torch.testing.assert_close(taken, centric * fraction * (1 - kept) * weights[..., sinks].sum(-1))
    gain = (new / weights)[..., image & ~sinks]
    torch.testing.assert_close(gain, gain[..., :1].expand_as(gain) if gain.numel() else gain)


@torch.no_grad()
def test_one_layer_against_the_models_own_attention(planted: Model) -> None:
    """The same change, put together from eager weights in another way."""
    prompt = asked(planted)
    inputs = planted.inputs([prompt])
    own = [w[0].double() for w in eager_attentions(planted.hf, **inputs)]
    before, after = (_outputs(planted, prompt, s) for s in ((), (spec(planted, heads=["L3H1", "L3H2"]),)))
    start, stop = prompt.spans["image"]
    sinks = [0, *(start + i for i in BORDER)]
    rest = [p for p in range(start, stop) if p not in sinks]
    values = _values(planted, prompt, 3)
    for head in range(4):
        weights = own[3][head].clone()
        for row in (r for r in range(len(prompt)) if not start <= r < stop and head in (1, 2)):
            budget = 0.4 * weights[row, sinks].sum()
            if not (weights[row, rest].sum() > 0):
                continue
            weights[row, sinks] *= 0.6
            weights[row, rest] *= 1 + budget / weights[row, rest].sum()
        torch.testing.assert_close(after[3][:, head], weights @ values[head], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after[2], before[2])
    assert not torch.allclose(after[3], before[3], atol=1e-3)


def _outputs(model: Model, prompt: Prompt, specs: Sequence[Spec]) -> list[torch.Tensor]:
    """Every layer's head outputs. [n, H, D] each"""
    found: list[torch.Tensor] = []
    with applied(model, *specs):
        hooks = [
            model.output_projection(i).register_forward_pre_hook(
                lambda _, args: found.append(args[0][0].unflatten(-1, (4, -1)).double())
            )
            for i in range(LAYERS)
        ]
        model.hf(**model.inputs([prompt]))
        for hook in hooks:
            hook.remove()
    return found


def _values(model: Model, prompt: Prompt, layer: int) -> torch.Tensor:
    class Values:
        def see(self, call: object) -> None:
            if call.layer == layer:  # type: ignore[attr-defined]
                self.v = call.v[0].double().repeat_interleave(2, 0)  # type: ignore[attr-defined]

    with attach(model, keep := Values()):
        model.hf(**model.inputs([prompt]))
    return keep.v


@torch.no_grad()
def test_identities_and_untouched_rows(planted: Model) -> None:
    prompt = asked(planted)
    inputs = planted.inputs([prompt])
    plain = planted.hf(**inputs).logits

    def under(one: Spec) -> torch.Tensor:
        with applied(planted, one):
            found: torch.Tensor = planted.hf(**inputs).logits
        return found

    changed = under(spec(planted))
    for same in (spec(planted).with_strength(1.0), spec(planted, take_fraction=0.0)):
        torch.testing.assert_close(under(same), plain)
    start, stop = prompt.spans["image"]
    torch.testing.assert_close(changed[:, start:stop], plain[:, start:stop])
    torch.testing.assert_close(changed[:, :start], plain[:, :start])
    assert not torch.allclose(changed[:, stop:], plain[:, stop:], atol=1e-3)
    opposite = under(spec(planted).opposite())
    assert ((changed - plain) * (opposite - plain))[:, stop:].sum() < 0


@pytest.fixture
def unplanted(planted: Model) -> Iterator[Model]:
    """The same model without visual sinks; the text's is still there."""
    projector = planted.hf.model.multi_modal_projector
    kept = dict(projector._forward_hooks)
    projector._forward_hooks.clear()
    yield planted
    projector._forward_hooks.update(kept)


@torch.no_grad()
def test_layers_without_visual_sinks_are_untouched(unplanted: Model) -> None:
    inputs = unplanted.inputs([asked(unplanted)])
    plain = unplanted.hf(**inputs).logits
    with applied(unplanted, spec(unplanted)):
        assert torch.equal(unplanted.hf(**inputs).logits, plain)


@torch.no_grad()
def test_batched_cached_and_whole_agree(planted: Model) -> None:
    var = spec(planted, take_fraction=0.9)
    prompts = [asked(planted), asked(planted, "how many", "blue")]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    alone = []
    for prompt in prompts:
        inputs = planted.inputs([prompt])
        with applied(planted, var):
            out = planted.hf.generate(
                **inputs, attention_mask=torch.ones_like(inputs["input_ids"]), output_logits=True,
                return_dict_in_generate=True, **options,
            )  # fmt: skip
            whole = planted.hf(**(inputs | {"input_ids": out.sequences[:, :-1]})).logits
        logits = torch.stack(out.logits, 1)[0]
        torch.testing.assert_close(whole[0, -6:], logits, atol=2e-4, rtol=1e-3)
        alone.append((out.sequences[0, -6:].tolist(), logits))
    width = max(map(len, prompts))
    ids, mask = torch.zeros(2, width, dtype=torch.long), torch.zeros(2, width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt.ids), 1
    with applied(planted, var):
        both = planted.hf.generate(
            **planted.inputs(prompts, ids), attention_mask=mask, output_logits=True,
            return_dict_in_generate=True, **options,
        )  # fmt: skip
    for row, (written, logits) in enumerate(alone):
        assert both.sequences[row, -6:].tolist() == written
        torch.testing.assert_close(torch.stack(both.logits, 1)[row], logits, atol=2e-4, rtol=1e-3)
    words = "what is in the picture"
    shown = prompts[0].pictures
    plain = generate(planted, words, pictures=shown, max_new_tokens=6)
    assert generate(planted, words, var, pictures=shown, max_new_tokens=6) == planted.tokenizer.decode(
        alone[0][0]
    )
    assert generate(planted, words, var.with_strength(1.0), pictures=shown, max_new_tokens=6) == plain


def test_what_it_cannot_do_is_said(planted: Model, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="reads text alone"):
        fit(load(tiny("llama")), "var")
    var = spec(planted)
    assert var.layers == [2, 3] and "sink dimensions [17], found in text" in var.source.note
    embeddings = planted.hf.get_input_embeddings()(torch.tensor([asked(planted).ids]))
    with pytest.raises(Refused, match="token ids, not embeddings"), applied(planted, var):
        planted.hf(inputs_embeds=embeddings)
    var.save(tmp_path / "var.json")
    assert Spec.open(tmp_path / "var.json") == var
    assert np.isfinite(var.settings["level"]).all()  # type: ignore[arg-type]
