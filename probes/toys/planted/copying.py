"""A task whose circuit is known by construction: copying in the planted models.

`D E F ... A B C ... A B` → C, in made-up words. In the counterfactual the pairs before C and F have
changed places, so that F follows A B. Heads that find out what stands one and two tokens back write
it where the copying heads look for it; all other heads write where nobody reads, or rest.
"""

from __future__ import annotations

from random import Random

import torch

from headscope.probes.geometry import HeadId
from headscope.probes.model import Model
from headscope.probes.prompts import Contrast, Prompt
from headscope.probes.toys.planted import words
from headscope.probes.toys.planted.models import plant, planted_truth

CARRIERS = frozenset(("previous", "back2", "induction", "copier"))
SOFT = 0.15  # of the planted sharpness: attention is no longer saturated, and the answers are the same
_BETWEEN = 3  # words that stand between the parts of a prompt


def copying_model(name: str, sharpness: float = SOFT) -> Model:
    """The planted model called `name`, its attention scores multiplied by `sharpness`.

    At 1 attention is saturated and gradients through it vanish; see `SOFT`.

    Raises:
        UnknownName: there is no such plan.
    """
    model = plant(name)
    with torch.no_grad():
        for key, weight in model.hf.named_parameters():
            if key.endswith("q_proj.weight"):
                weight.mul_(sharpness)
            elif key.endswith("c_attn.weight"):  # GPT-2 keeps queries, keys and values side by side
                weight[:, : weight.shape[1] // 3].mul_(sharpness)
    return model


def copying_circuit(name: str) -> list[HeadId]:
    """The heads that copying needs."""
    return [HeadId(h.layer, h.head) for h in planted_truth(name).heads if h.circuit in CARRIERS]


def copying_prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Prompts with counterfactuals; `value` is the word to copy."""
    names = words.vocabulary()
    rng, made = Random(f"copying/{seed}"), list[Prompt]()
    for _ in range(count):
        drawn = [names.index(word) for word in rng.sample(words.hay_words(), 6 + 3 * _BETWEEN)]
        (a, b, c, d, e, f), rest = drawn[:6], drawn[6:]
        gap = [rest[i : i + _BETWEEN] for i in range(0, len(rest), _BETWEEN)]
        bos = names.index(words.BOS)
        clean, twin = (
            [bos, *gap[0], *first, f, *gap[1], *second, c, *gap[2], a, b]
            for first, second in (((d, e), (a, b)), ((a, b), (d, e)))
        )
        at = len(clean) - 3 - _BETWEEN
        made.append(
            Prompt(
                "copying", (*clean, c), spans={"value": (at, at + 1)}, answer=(len(clean), len(clean) + 1),
                source=(at,), contrast=Contrast(tuple(twin), (c,), (f,)),
            )
        )  # fmt: skip
    return made
