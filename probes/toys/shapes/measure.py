"""How well a model sees, and how often it says what is usual instead of what is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from headscope.probes.toys.shapes.captions import Verdict, judge
from headscope.probes.toys.shapes.language import END, ID, IMAGE, ROLES, START, WORDS, talk
from headscope.probes.toys.shapes.model import PATCHES, read, seen
from headscope.probes.toys.shapes.raster import pixels, render
from headscope.probes.toys.shapes.scenes import Habit, Light, Scenes, breaking, draw

_HELD_OUT = 7_000_003  # a seed that no training uses


@torch.no_grad()
def measured(
    model: LlavaForConditionalGeneration, noise: float, count: int = 512, light: Light | None = None
) -> dict[str, Any]:
    """Accuracies by kind of token and what captions claim, on held-out scenes of three worlds.

    Args:
        model: the model, which is left in the mode it was in.
        noise: of the pictures.
        count: scenes of each world.
        light: how well they can be seen.

    Returns:
        Of the worlds `neutral`, `usual` (the default habit) and `breaking`, the accuracy of the
        likeliest token by its role, and `captions`: see `rates`.
    """
    training = model.training
    model.eval()
    found = {}
    worlds: dict[str, Callable[..., Scenes]] = {
        "neutral": draw,
        "usual": partial(draw, habit=Habit()),
        "breaking": breaking,
    }
    for name, world in worlds.items():
        dice = torch.Generator(model.device).manual_seed(_HELD_OUT)
        scenes = world(count, dice, light=light)
        picture = pixels(render(scenes, dice, noise))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
            found[name] = _accuracies(model, scenes, picture, dice)
            found[name]["captions"] = rates(_captions(model, scenes, picture))
    model.train(training)
    return found


def _accuracies(
    model: LlavaForConditionalGeneration, scenes: Scenes, picture: torch.Tensor, dice: torch.Generator
) -> dict[str, Any]:
    said = talk(scenes, dice)
    right = read(model, seen(model, picture), said.ids).argmax(-1) == said.ids
    return {
        role: round(right[said.roles == i].float().mean().item(), 3)
        for i, role in enumerate(ROLES)
        if bool((said.roles == i).any())
    }


def _captions(model: LlavaForConditionalGeneration, scenes: Scenes, picture: torch.Tensor) -> list[Verdict]:
    """What the model says of each picture, likeliest word by word, judged."""
    row = [START, *[IMAGE] * PATCHES, ID["describe"], ID[":"]]
    ids = torch.tensor([row], device=model.device).expand(len(scenes), -1)
    writer: Any = model
    out = writer.generate(
        input_ids=ids, pixel_values=picture, attention_mask=torch.ones_like(ids), max_new_tokens=48,
        do_sample=False, pad_token_id=0, eos_token_id=END,
    )[:, len(row) :].tolist()  # fmt: skip
    words = [[WORDS[i] for i in one if i not in (0, END)] for one in out]
    return [judge(" ".join(caption), scenes, i) for i, caption in enumerate(words)]


def rates(verdicts: list[Verdict]) -> dict[str, float]:
    """Hallucination, recall and length over captions.

    Returns:
        `hallucination`: share of the kinds named that are absent or in another colour. `absent`,
        `miscoloured`, `habit`: its parts, and the part that the habit explains. `captions`: share
        of the captions with any. `recall`: share of the pictures' kinds that are named. `words`:
        mean length.
    """
    named = max(1, sum(v.mentions for v in verdicts))
    wrong = sum(v.absent + v.miscoloured for v in verdicts)
    found = {
        "hallucination": wrong / named,
        "absent": sum(v.absent for v in verdicts) / named,
        "miscoloured": sum(v.miscoloured for v in verdicts) / named,
        "habit": sum(v.habit for v in verdicts) / named,
        "captions": sum(v.absent + v.miscoloured > 0 for v in verdicts) / len(verdicts),
        "recall": sum(v.found for v in verdicts) / sum(v.kinds for v in verdicts),
        "words": sum(v.words for v in verdicts) / len(verdicts),
    }
    return {name: round(value, 4) for name, value in found.items()}
