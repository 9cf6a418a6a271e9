"""What VAR costs while a caption is written: CPU time with it over without, at equal length.

    python benchmarks/var_time.py

`shapes` has no sinks of its own, so that VAR has nothing to do there; it is timed as it is, and with
sinks planted: the border patches and the first token get one huge component, and every head that VAR
is asked for is edited in every row of text. VHR on the layers 2 to 5 is timed beside it.

Captions with and without take turns, each first in every other round. The ratio is the median over
rounds, with the 95% interval of a median (order statistics).
"""

from __future__ import annotations

import json
import math
import statistics
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch

from headscope.probes import TASKS, Model, Prompt, Spec, applied, fit, load

OUT = Path(__file__).parent / "results" / "var_time_cpu.json"
DIMENSION, SIZE, TOKENS, ROUNDS = 17, 60.0, 40, 40


def main() -> None:
    torch.set_num_threads(1)
    model = load("shapes", device="cpu")
    model.hf.generation_config.eos_token_id = None
    task = TASKS["scenes"]
    shown = task.prompts(model.reader(task), lengths=[64], per_length=8, seed=3, haystack=None)
    assert model.vision
    prompts = [model.vision.prompt("describe :", p.pictures) for p in shown]
    found = {}
    for name, plant in (("as it is", False), ("sinks planted", True)):
        with ExitStack() as stack:
            if plant:
                stack.callback(planted(model))
            var = fit(model, "var", prompts=prompts[:4], min_nonsink_ratio=0.0, min_image_mass=0.0)
            for batch in (1, 8):
                found[f"{name}, batch of {batch}"] = compared(model, var, prompts[:batch])
        found[f"{name}, sink dimensions"] = var.settings["dims"]
    vhr = fit(model, "vhr", positions="generated", layers=(2, 3, 4, 5))
    for batch in (1, 8):
        found[f"VHR, batch of {batch}"] = compared(model, vhr, prompts[:batch])
    print(json.dumps(found, indent=2))
    OUT.write_text(json.dumps(found, indent=2) + "\n")


def planted(model: Model) -> object:
    """Plant sinks; what is returned takes them away again."""
    side = model.hf.config.vision_config.image_size // model.hf.config.vision_config.patch_size
    border = [i for i in range(side**2) if {i // side, i % side} & {0, side - 1}]
    table = model.hf.get_input_embeddings().weight
    before = table[1, DIMENSION].item()

    def plant(_: object, args: object, features: torch.Tensor) -> torch.Tensor:
        out = features.clone()
        out[:, border, DIMENSION] += SIZE
        return out

    hook = model.hf.model.multi_modal_projector.register_forward_hook(plant)
    with torch.no_grad():
        table[1, DIMENSION] = SIZE

    def undo() -> None:
        hook.remove()
        with torch.no_grad():
            table[1, DIMENSION] = before

    return undo


def compared(model: Model, spec: Spec, prompts: list[Prompt]) -> dict[str, float]:
    """Milliseconds a caption, medians of the rounds, plain and under the spec; and the ratio."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(ROUNDS + 1):
        for on in (False, True) if turn % 2 else (True, False):
            seconds[on].append(written(model, prompts, spec if on else None))
    plain, under = (seconds[on][1:] for on in (False, True))
    ratios = sorted(b / a for a, b in zip(plain, under, strict=True))
    middle, far = ROUNDS // 2, math.ceil(1.96 * math.sqrt(ROUNDS) / 2)
    return {
        "plain_ms": round(1000 * statistics.median(plain) / len(prompts), 1),
        "with_ms": round(1000 * statistics.median(under) / len(prompts), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(ratios[middle - far], 3),
        "ratio_high": round(ratios[middle + far - 1], 3),
    }


@torch.no_grad()
def written(model: Model, prompts: list[Prompt], spec: Spec | None) -> float:
    """CPU seconds of captions of TOKENS tokens."""
    inputs = model.inputs(prompts)
    mask = torch.ones_like(inputs["input_ids"])
    with applied(model, spec) if spec else nullcontext():
        began = time.process_time()
        model.hf.generate(
            **inputs, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
        return time.process_time() - began


if __name__ == "__main__":
    main()
