"""VHR: which heads are reinforced, on vectors and in tiny models, under generate as in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from vlm_zoo import tiny_vlm
from zoo import tiny

from headscope.heads.interventions.vhr import default_layers, divergence, reinforced
from headscope.probes import (
    HeadscopeError,
    Model,
    Picture,
    Prompt,
    Refused,
    Spec,
    applied,
    fit,
    load,
)
from headscope.probes import divergence as measured

NAMES = ("llava", "qwen2.5-vl", "gemma3", "internvl")


def picture(seed: int = 0) -> Picture:
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(seed))
    return Picture.open(Image.fromarray(pixels.to(torch.uint8).numpy()))


def vlm(name: str) -> Model:
    model, tokenizer, eyes = tiny_vlm(name)
    return load(model, tokenizer=tokenizer, image_processor=eyes)


@pytest.fixture(scope="module")
def llava() -> Model:
    return vlm("llava")


def asked(model: Model, text: str = "what is in the picture", seed: int = 0) -> Prompt:
    assert model.vision is not None
    return model.vision.prompt(text, [picture(seed)])


def logits(model: Model, prompts: list[Prompt], *specs: Spec) -> Tensor:
    with torch.no_grad(), applied(model, *specs, prompt=[len(p) for p in prompts]):
        found: Tensor = model.hf(**model.inputs(prompts), use_cache=False).logits
    return found


@pytest.mark.parametrize(
    ("depth", "expected"), [(32, (1, *range(18, 32))), (6, (1, 3, 4, 5)), (3, (1, 2)), (1, (0,))]
)
def test_default_layers_are_the_papers(depth: int, expected: tuple[int, ...]) -> None:
    assert default_layers(depth) == expected


def test_heads_above_the_median_are_reinforced_and_outliers_in_size_are_not() -> None:
    blind = torch.zeros(2, 5, 3)
    seen = torch.zeros(2, 5, 3)
    seen[0, :, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0, 30.0])
    seen[1, :, 1] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    assert reinforced(divergence(seen, blind)).tolist() == [
        [False, False, False, True, True],
        [True, True, False, False, False],
    ]
    blind[0, 4, 2] = 10.0  # large without the picture as well
    assert divergence(seen, blind)[0].tolist() == [1.0, 2.0, 3.0, 4.0, 0.0]
    assert divergence(seen, blind, drop_outliers=False)[0, 4] == pytest.approx(1000**0.5)
    assert reinforced(divergence(seen, blind))[0].tolist() == [False, False, True, True, False]
    assert reinforced(divergence(seen, blind), share=1.0)[0].tolist() == [True, True, True, True, False]
    assert not reinforced(divergence(blind, blind)).any()
    assert not reinforced(divergence(seen, blind), share=0.0).any()


@pytest.mark.parametrize("stand", ["removed", "mean"])
@pytest.mark.parametrize("name", NAMES)
def test_the_first_layer_reinforces_what_the_divergence_of_the_untouched_model_says(
    name: str, stand: Any
) -> None:
    model = vlm(name)
    prompt = asked(model)
    last = len(prompt) - 1
    spec = fit(model, "vhr", strength=3.0, layers=(0,), drop_outliers=False, stand=stand)
    vhd = measured(model, prompt, [last], stand).vhd[0, :, 0]
    chosen = [f"L0H{h}" for h in (vhd > vhd.quantile(0.5)).nonzero()[:, 0].tolist()]
    assert 1 <= len(chosen) <= model.geometry.heads // 2
    scaled = fit(model, "scale", heads=chosen, strength=3.0)
    torch.testing.assert_close(logits(model, [prompt], spec), logits(model, [prompt], scaled))


def test_strength_one_is_the_untouched_model_and_others_are_not(llava: Model) -> None:
    prompts = [asked(llava)]
    plain = logits(llava, prompts)
    spec = fit(llava, "vhr")
    assert spec.strengths[0] == 2.0 and spec.layers == [1, 2]
    assert torch.equal(logits(llava, prompts, spec.with_strength(1.0)), plain)
    moved = [(logits(llava, prompts, spec.with_strength(a)) - plain).abs().max() for a in (0.5, 2.0)]
    assert min(moved) > 1e-3
    assert torch.equal(logits(llava, prompts), plain)


def test_positions_generated_leaves_the_rows_of_the_prompt_alone(llava: Model) -> None:
    prompt = asked(llava)
    plain = logits(llava, [prompt])
    found = logits(llava, [prompt], fit(llava, "vhr", positions="generated"))
    assert torch.equal(found[:, :-1], plain[:, :-1]) and not torch.equal(found[:, -1], plain[:, -1])


def test_higher_layers_are_judged_with_the_lower_ones_reinforced(llava: Model) -> None:
    both, alone = (fit(llava, "vhr", layers=at, strength=30.0) for at in ((1, 2), (2,)))
    shown = [asked(llava, seed=seed) for seed in range(6)]
    found = [(_gains(llava, p, both)[2], _gains(llava, p, alone)[2]) for p in shown]
    assert any(not torch.equal(one, other) for one, other in found)


def _gains(model: Model, prompt: Prompt, spec: Spec) -> dict[int, Tensor]:
    """What VHR multiplied each head by, read off what reached the output projection."""
    found: dict[int, Tensor] = {}
    hooks = []
    for layer in spec.layers:
        before: list[Tensor] = []

        def first(_: Any, args: tuple[Tensor, ...], before: list[Tensor] = before) -> None:
            before[:] = [args[0][0, -1].unflatten(-1, (model.geometry.heads, -1))]

        def second(
            _: Any, args: tuple[Tensor, ...], layer: int = layer, before: list[Tensor] = before
        ) -> None:
            after = args[0][0, -1].unflatten(-1, (model.geometry.heads, -1))
            found[layer] = (after.norm(dim=-1) / before[0].norm(dim=-1)).round(decimals=3)

        module = model.output_projection(layer)
        hooks.append(module.register_forward_pre_hook(first))
        with torch.no_grad(), applied(model, spec):
            hooks.append(module.register_forward_pre_hook(second))
            model.hf(**model.inputs([prompt]), use_cache=False)
        while hooks:
            hooks.pop().remove()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_reads_each_as_alone_however_long(name: str) -> None:
    model = vlm(name)
    prompts = [asked(model), asked(model, "how many", 1), asked(model, "what is the red circle left of", 2)]
    spec = fit(model, "vhr")
    together = logits(model, prompts, spec)
    for i, prompt in enumerate(prompts):
        alone = logits(model, [prompt], spec)[0]
        torch.testing.assert_close(together[i, : len(prompt)], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_generate_with_a_cache_writes_what_whole_passes_would(name: str) -> None:
    model = vlm(name)
    spec = fit(model, "vhr", strength=3.0)
    prompt, start = asked(model), asked(model)
    with applied(model, spec, prompt=len(start)):
        write: Any = model.hf.generate
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": 95}
        out = write(**model.inputs([start]), **options)
    for _ in range(5):
        with torch.no_grad(), applied(model, spec, prompt=len(start)):
            said = int(model.hf(**model.inputs([prompt]), use_cache=False).logits[0, -1].argmax())
        prompt = Prompt(
            prompt.task, (*prompt.ids, said), prompt.spans, pictures=prompt.pictures, views=prompt.views
        )
    assert out[0].tolist() == list(prompt.ids)


def test_padding_on_the_left_changes_nothing(llava: Model) -> None:
    prompt, pad = asked(llava), 4
    inputs = llava.inputs([prompt])
    ids = torch.cat([torch.zeros(1, pad, dtype=torch.long), inputs["input_ids"]], 1)
    mask = (torch.arange(ids.shape[1]) >= pad).long()[None]
    places = (mask.cumsum(1) - 1).clamp_min(0)
    spec = fit(llava, "vhr")
    with torch.no_grad(), applied(llava, spec):
        found = llava.hf(**(inputs | {"input_ids": ids}), attention_mask=mask, position_ids=places).logits
    torch.testing.assert_close(found[:, pad:], logits(llava, [prompt], spec), atol=1e-4, rtol=1e-4)


def test_a_prompt_without_a_picture_is_left_alone(llava: Model) -> None:
    text = Prompt("ask", tuple(llava.encode("<s> what is the red circle")[0].tolist()))
    assert torch.equal(logits(llava, [text], fit(llava, "vhr", share=1.0)), logits(llava, [text]))


@pytest.fixture
def bare(llava: Model) -> Iterator[None]:
    """Nothing is left hooked afterwards."""

    def hooks() -> int:
        return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in llava.hf.modules())

    before = hooks()
    yield
    assert hooks() == before


@pytest.mark.usefixtures("bare")
def test_hooks_go_when_something_fails(llava: Model) -> None:
    with pytest.raises(ValueError, match="mine"), applied(llava, fit(llava, "vhr")):
        llava.hf(**llava.inputs([asked(llava)]))
        raise ValueError("mine")


@pytest.mark.usefixtures("bare")
def test_prompts_in_pieces_are_refused(llava: Model) -> None:
    prompt, spec = asked(llava), fit(llava, "vhr")
    inputs = llava.inputs([prompt])
    with torch.no_grad():
        cache = llava.hf(**inputs, use_cache=True).past_key_values
        with pytest.raises(Refused, match="whole and from its first token"), applied(llava, spec, prompt=30):
            llava.hf(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache)
        with pytest.raises(Refused, match="ends before the prompt does"), applied(llava, spec, prompt=99):
            llava.hf(**inputs)


def test_two_interventions_at_once_each_see_their_own(llava: Model) -> None:
    prompts = [asked(llava)]
    loose = {"factor": 0.1, "min_image_mass": 0.0, "min_nonsink_ratio": 0.0, "take_fraction": 1.0}
    var, vhr = fit(llava, "var", heads=["L2H0"], dims=(3, 7), **loose), fit(llava, "vhr")
    assert not torch.equal(logits(llava, prompts, var), logits(llava, prompts))
    for specs in ((var, vhr), (vhr, var)):
        assert not torch.equal(logits(llava, prompts, *specs), logits(llava, prompts, vhr))


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(Refused, match="reads text alone"):
        fit(load(tiny("llama")), "vhr")
    model = vlm("llava")
    with pytest.raises(HeadscopeError, match=r"layers is \[7\]; .* has the layers 0 to 2"):
        fit(model, "vhr", layers=(7,))
    with pytest.raises(HeadscopeError, match="share"):
        fit(model, "vhr", share=1.5)
