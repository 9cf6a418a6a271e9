"""VAR and VHR under `generate`: one prompt, a padded batch and whole passes say the same."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from vlm_zoo import VLMS, tiny_vlm

from headscope.probes import (
    Model,
    Picture,
    Prompt,
    Spec,
    applied,
    fit,
    load,
    relative_size,
    residual_stream,
)

STEPS = 5
CLOSE = {"atol": 3e-4, "rtol": 1e-3}
LAYER = 2  # the last, and the only one with sinks


@cache
def vlm(name: str) -> Model:
    hf, tokenizer, eyes = tiny_vlm(name)
    hf.generation_config.eos_token_id = None
    return load(hf, tokenizer=tokenizer, image_processor=eyes)


def asked(model: Model) -> list[Prompt]:
    """Two prompts of different lengths about different pictures."""
    assert model.vision
    random, made = torch.Generator().manual_seed(0), []
    for text in ("how many", "what is the red circle left of"):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=random).to(torch.uint8)
        made.append(model.vision.prompt(text, [Picture.open(Image.fromarray(pixels.numpy()))]))
    return made


def fitted(method: str, model: Model, prompts: list[Prompt]) -> Spec:
    """A spec that changes every prompt. In random models no token stands out, so that for VAR sinks are
    said to begin where a dimension parts the image tokens of each prompt."""
    if method == "vhr":
        return fit(model, method, strength=3.0)
    sizes = [image_sizes(model, prompt) for prompt in prompts]
    level = torch.cat(sizes).median(0).values + 1e-3
    parts = torch.stack([(s > level).any(0) & (s < level).any(0) for s in sizes]).all(0)
    d = int(parts.nonzero()[0])
    return fit(
        model, method, heads=[f"L{LAYER}H{head}" for head in range(6)], dims=(d,), factor=1e-6,
        level=((float(level[d]),),) * 3, min_image_mass=0.0, min_nonsink_ratio=0.0, take_fraction=0.9,
    )  # fmt: skip


@torch.no_grad()
def image_sizes(model: Model, prompt: Prompt) -> Tensor:
    """Of the image tokens, the relative sizes of what goes into the layer. [n, hidden]"""
    found: list[Tensor] = []

    class Keep:
        def see(self, hidden: Tensor) -> None:
            found.append(hidden[0])

    with residual_stream(model, Keep()):
        model.hf(**model.inputs([prompt]))
    return relative_size(found[LAYER])[[p for run in prompt.image_runs for p in range(*run)]]


@torch.no_grad()
def written(model: Model, prompts: list[Prompt], *specs: Spec) -> tuple[Tensor, Tensor]:
    """The tokens [B, STEPS] that `generate` writes after prompts padded on the left, and their logits."""
    width = max(map(len, prompts))
    ids, mask = (torch.zeros(len(prompts), width, dtype=torch.long) for _ in range(2))
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt.ids), 1
    with applied(model, *specs, prompt=[len(p) for p in prompts]):
        write: Any = model.hf.generate
        out = write(
            **model.inputs(prompts, ids), attention_mask=mask, max_new_tokens=STEPS, do_sample=False,
            pad_token_id=0, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    return out.sequences[:, width:], torch.stack(out.logits, 1)


@pytest.mark.parametrize("name", VLMS)
@pytest.mark.parametrize("method", ["var", "vhr"])
def test_alone_together_and_whole_agree(method: str, name: str) -> None:
    model = vlm(name)
    prompts = asked(model)
    spec = fitted(method, model, prompts)
    plain = [written(model, [prompt])[1] for prompt in prompts]
    alone = [written(model, [prompt], spec) for prompt in prompts]
    assert all((a[1] - p).abs().max() > 1e-3 for a, p in zip(alone, plain, strict=True))
    tokens, logits = written(model, prompts, spec)
    for row, (prompt, (said, found)) in enumerate(zip(prompts, alone, strict=True)):
        assert tokens[row].tolist() == said[0].tolist()
        torch.testing.assert_close(logits[row], found[0], **CLOSE)
        ids = torch.tensor([[*prompt.ids, *said[0, :-1].tolist()]])
        with torch.no_grad(), applied(model, spec, prompt=len(prompt)):
            whole = model.hf(**model.inputs([prompt], ids), use_cache=False).logits
        torch.testing.assert_close(whole[0, len(prompt) - 1 :], found[0], **CLOSE)


def test_var_after_another_change_of_attention_changes_what_that_left() -> None:
    """Only the first change may take the place of the model's attention."""
    model = vlm("llava")
    prompt = asked(model)[0]
    var, even = fitted("var", model, [prompt]), fit(model, "uniform", heads=["L2H1", "L2H4"])
    for specs in ((even, var), (var, even)):
        said, found = written(model, [prompt], *specs)
        ids = torch.tensor([[*prompt.ids, *said[0, :-1].tolist()]])
        with torch.no_grad(), applied(model, *specs, prompt=len(prompt)):
            whole = model.hf(**model.inputs([prompt], ids), use_cache=False).logits
        torch.testing.assert_close(whole[0, len(prompt) - 1 :], found[0], **CLOSE)
        assert not torch.allclose(found, written(model, [prompt], specs[0])[1], atol=1e-3)
