"""Patching where the counterfactual is another picture: brute force, slopes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from vlm_zoo import tiny_vlm

from headscope.probes import (
    TASKS,
    HeadId,
    HeadscopeError,
    Model,
    Picture,
    Prompt,
    Refused,
    activation_patching,
    attribution_patching,
    discover,
    load,
    path_patching,
    picture_pair,
    trials,
)

CLOSE = {"rtol": 1e-3, "atol": 3e-4}
NAMES = ("llava", "llava-next", "qwen2.5-vl", "idefics3", "gemma3", "internvl")
SOME = (HeadId(0, 1), HeadId(1, 4), HeadId(2, 0))
Change = Callable[[int, Tensor], Tensor]


@cache
def vlm(name: str) -> Model:
    hf, tokenizer, eyes = tiny_vlm(name)
    return load(hf, tokenizer=tokenizer, image_processor=eyes)


def picture(seed: int, width: int = 32) -> Picture:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (32, width, 3), generator=random).to(torch.uint8)
    return Picture.open(Image.fromarray(pixels.numpy()))


def pairs(model: Model) -> list[Prompt]:
    """Two questions of different lengths, each about a picture and about another."""
    assert model.vision
    texts = ("what is in the picture", "what colour is the star")
    return [
        picture_pair(model.vision, text, [picture(2 * i)], [picture(2 * i + 1)], right="red", wrong="blue")
        for i, text in enumerate(texts)
    ]


def run(model: Model, prompt: Prompt, twin: bool, change: Change | None = None) -> tuple[float, list[Tensor]]:
    """Log-odds of the right answer in one whole pass, and the head outputs [H, T, D] on the way."""
    assert prompt.answer and prompt.contrast
    kept: list[Tensor] = []

    def outputs(layer: int) -> Callable[..., tuple[Tensor]]:
        def hook(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0][0].unflatten(-1, (model.geometry.heads, -1)).transpose(0, 1)
            kept.append(z)
            z = z if change is None else change(layer, z)
            return (z.transpose(0, 1).flatten(1)[None],)

        return hook

    shown = replace(prompt, contrast=None, pictures=prompt.contrast.pictures) if twin else prompt
    ids = torch.tensor([prompt.ids[: prompt.answer[0]]])
    with torch.no_grad(), ExitStack() as stack:
        for layer in range(model.geometry.layers):
            hook = model.output_projection(layer).register_forward_pre_hook(outputs(layer))
            stack.callback(hook.remove)
        logp = model.hf(**model.inputs([shown], ids), use_cache=False).logits[0, -1].double().log_softmax(-1)
    return float(logp[prompt.contrast.right[0]] - logp[prompt.contrast.wrong[0]]), kept


def swap(twin: list[Tensor], head: HeadId) -> Change:
    def change(layer: int, live: Tensor) -> Tensor:
        out = live.clone()
        if layer == head.layer:
            out[head.head] = twin[layer][head.head]
        return out

    return change


@pytest.mark.parametrize("name", NAMES)
def test_patching_from_another_picture_is_brute_force(name: str) -> None:
    model = vlm(name)
    prompts = pairs(model)
    found = activation_patching(model, prompts, heads=SOME)
    for p, prompt in enumerate(prompts):
        before, _ = run(model, prompt, False)
        against, other = run(model, prompt, True)
        assert abs(against - before) > 1e-3
        np.testing.assert_allclose(found.clean[0, p], before, **CLOSE)
        np.testing.assert_allclose(found.counterfactual[0, p], against, **CLOSE)
        for head in SOME:
            after, _ = run(model, prompt, False, swap(other, head))
            np.testing.assert_allclose(found.change[0, p, head.layer, head.head], after - before, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_attribution_is_the_slope_towards_the_other_picture(name: str) -> None:
    model, step = vlm(name), 1e-2
    prompts = pairs(model)
    found = attribution_patching(model, prompts).change[0]
    for p, prompt in enumerate(prompts):
        _, z = run(model, prompt, False)
        _, other = run(model, prompt, True)
        for head in SOME:
            ends = []
            for sign in (1, -1):
                near = [a + sign * step * (b - a) for a, b in zip(z, other, strict=True)]
                ends.append(run(model, prompt, False, swap(near, head))[0])
            slope = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(found[p, head.layer, head.head], slope, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_paths_of_the_last_layer_are_its_whole_effect_and_those_of_a_batch_its_prompts(name: str) -> None:
    model = vlm(name)
    heads, prompts = [HeadId(2, i) for i in range(model.geometry.heads)], pairs(model)
    exact = activation_patching(model, prompts, heads=heads, positions="last")
    np.testing.assert_allclose(path_patching(model, prompts, heads=heads).change, exact.change, **CLOSE)
    to = {"heads": SOME[:2], "receivers": ["L2H3.v"]}
    alone = [path_patching(model, [prompt], **to).change[0, 0] for prompt in prompts]
    np.testing.assert_allclose(path_patching(model, prompts, **to).change[0], alone, **CLOSE)


def test_pictures_that_take_other_numbers_of_tokens_are_refused() -> None:
    vision = vlm("qwen2.5-vl").vision
    assert vision
    with pytest.raises(HeadscopeError, match="take 4 image tokens, those of its counterfactual 8"):
        picture_pair(vision, "what is it", [picture(0)], [picture(1, width=64)], right="red", wrong="blue")
    pair = picture_pair(vision, "what is it", [picture(0)], [picture(1)], right="red", wrong="blue")
    assert pair.contrast
    with pytest.raises(HeadscopeError, match="shows 2 pictures, the prompt 1"):
        replace(pair, contrast=replace(pair.contrast, pictures=(picture(1), picture(2))))
    with pytest.raises(HeadscopeError, match="stand at other places"):
        replace(pair, contrast=replace(pair.contrast, ids=pair.contrast.ids[::-1]))
    assert replace(pair, contrast=replace(pair.contrast, pictures=(picture(3),))).key() != pair.key()


def test_the_other_colour_is_the_only_difference_and_shapes_sees_it() -> None:
    model, task = load("shapes"), TASKS["recoloured"]
    made = task.prompts(model.reader(task), lengths=[64], per_length=12, seed=5, haystack=None)
    assert made == task.prompts(model.reader(task), lengths=[64], per_length=12, seed=5, haystack=None)
    for prompt in made:
        assert prompt.contrast and prompt.answer
        assert prompt.contrast.ids == prompt.ids[: prompt.answer[0]]
        assert prompt.meta["right"] != prompt.meta["wrong"]
        one, other = (np.asarray(p.image, float) for p in (*prompt.pictures, *prompt.contrast.pictures))
        assert 0 < (one != other).any(-1).mean() < 0.3
    assert trials(model, made).right.mean() > 0.5
    effects = attribution_patching(model, made)
    assert effects.counterfactual[0].mean() < 0 < effects.clean[0].mean()


def test_circuits_of_heads_are_found_on_pictures_and_those_of_edges_refused() -> None:
    model = load("shapes")
    found = discover(model, "recoloured", method="attribution", prompts=4)
    assert len(found.nodes) == 48 and found.clean and found.counterfactual
    assert found.clean > 0 > found.counterfactual
    with pytest.raises(Refused, match="show pictures, and this method reads text alone"):
        discover(model, "recoloured", method="eap", prompts=4)
