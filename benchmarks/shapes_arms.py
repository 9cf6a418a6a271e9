"""What reinforcing and redistributing attention does to hallucination of `shapes`.

    python benchmarks/shapes_arms.py --part captions --out benchmarks/results/shapes_captions.json
    python benchmarks/shapes_arms.py --part questions --out benchmarks/results/shapes_questions.json
    python benchmarks/shapes_arms.py --part search --out benchmarks/results/shapes_opera.json
    python benchmarks/shapes_arms.py --part development --out benchmarks/results/shapes_development.json

The settings of VHR and VAR were chosen on the development seeds 1001 and 1002 (part `development`);
everything else is measured on seeds from 9001 on, which nothing was chosen on.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headscope.heads import answered, captions, galleries_of, searching, under
from headscope.probes import HeadId, Model, Picture, Spec, divergence, fit, gallery, generate, load, versions

LAYERS, ALPHA = (2, 3, 4, 5), 2.0
_DEVELOPMENT, _HELD_OUT = (1001, 1002), 9001
_TIMED = 12


def vhr(model: Model, alpha: float = ALPHA, layers: tuple[int, ...] = LAYERS, **settings: Any) -> Spec:
    return fit(model, "vhr", strength=alpha, positions="generated", layers=layers, **settings)


def every(model: Model, alpha: float = ALPHA, layers: tuple[int, ...] = (1, 2, 3, 4, 5)) -> Spec:
    """VHR without a choice: all heads that the picture moves."""
    return vhr(model, alpha, layers, share=1.0, drop_outliers=False)


def scaled(model: Model, heads: list[HeadId]) -> Spec:
    return fit(model, "scale", heads=heads, strength=ALPHA, positions="generated")


def fixed(model: Model, random: int | None = None) -> Spec:
    """Half of each layer's heads for all pictures: those that pictures move most, or random ones."""
    assert model.vision is not None
    prompts = [model.vision.prompt("describe :", [p]) for p in gallery("breaking", 24, 1001).pictures]
    moved = np.mean([divergence(model, p, [len(p) - 1]).vhd[:, :, 0].cpu().numpy() for p in prompts], 0)
    if random is not None:
        moved = np.random.default_rng(random).random(moved.shape)
    half = model.geometry.heads // 2
    return scaled(model, [HeadId(i, int(h)) for i in LAYERS for h in np.argsort(-moved[i])[:half]])


def arms(model: Model) -> dict[str, list[tuple[Spec, ...]]]:
    loose = fit(model, "var", factor=0.1, take_fraction=1.0, min_nonsink_ratio=0.0)
    return {
        "untouched": [()],
        "VHR": [(vhr(model),)],
        "VHR, all heads": [(every(model),)],
        "random heads": [(fixed(model, random=i),) for i in range(2)],
        "fixed heads": [(fixed(model),)],
        "VAR": [(fit(model, "var"),)],
        "VAR, tau a third": [(loose,)],
        "VHR and VAR, tau a third": [(vhr(model), loose)],
        **{f"VHR at alpha {a:g}": [(vhr(model, a),)] for a in (0.5, 1.5, 3.0)},
    }


def development(model: Model) -> dict[str, list[tuple[Spec, ...]]]:
    """What was tried on the development seeds."""
    found: dict[str, list[tuple[Spec, ...]]] = {"untouched": [()]}
    for layers in ((1, 3, 4, 5), (2, 3, 4), LAYERS):
        for alpha in (2.0, 3.0):
            found[f"VHR layers {layers} alpha {alpha:g}"] = [(vhr(model, alpha, layers),)]
    for layers in ((2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4, 5)):
        found[f"VHR, all heads, layers {layers}"] = [(every(model, ALPHA, layers),)]
    for factor, take, least in ((0.1, 0.4, 0.5), (0.1, 1.0, 0.0), (0.05, 1.0, 0.0)):
        spec = fit(model, "var", factor=factor, take_fraction=take, min_nonsink_ratio=least)
        found[f"VAR factor {factor} take_fraction {take} min_nonsink_ratio {least}"] = [(spec,)]
    return found


def seconds(model: Model, pictures: tuple[Picture, ...]) -> dict[str, list[float]]:
    """Time per word of captions, one picture at a time, arms in turn."""
    found: dict[str, list[float]] = {"untouched": [], "VHR": [], "VAR": []}
    specs: dict[str, tuple[Spec, ...]] = {
        "untouched": (), "VHR": (vhr(model),), "VAR": (fit(model, "var", factor=0.1),)
    }  # fmt: skip
    for picture in pictures[:_TIMED]:
        for name, some in specs.items():
            start = time.perf_counter()
            said = generate(model, "describe :", *some, pictures=[picture], max_new_tokens=48)
            found[name].append((time.perf_counter() - start) / (len(said.split()) + 1))
    return found


def _rows(found: pd.DataFrame) -> Any:
    """One object per row; what is not a number is null."""
    return json.loads(found.round(4).to_json(orient="records"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("captions", "questions", "search", "development"), required=True)
    parser.add_argument("--model", default="shapes", help="it, or the folder of another training")
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = load(args.model, dtype="float32")  # on a GPU too, so that numbers do not depend on where
    seeds = [_HELD_OUT + i for i in range(args.seeds)]
    result: dict[str, Any] = {"scenes": args.scenes, "seeds": seeds, "versions": versions()}
    result |= {"threads": os.environ.get("OMP_NUM_THREADS", "")}

    def add(name: str, value: Any) -> None:
        result[name] = value
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(name, "written", flush=True)

    def write(world: str, chosen: dict[str, list[tuple[Spec, ...]]], at: list[int]) -> None:
        writers = {name: [under(*s) for s in some] for name, some in chosen.items()}
        found = captions(model, writers, galleries_of(world, args.scenes, at))
        add(f"{world} captions", _rows(found))

    if args.part == "development":
        result["seeds"] = list(_DEVELOPMENT)
        write("breaking", development(model), list(_DEVELOPMENT))
    if args.part == "captions":
        add("seconds per word", seconds(model, gallery("breaking", _TIMED, _HELD_OUT).pictures))
        chosen = arms(model)
        write("breaking", chosen, seeds)
        few = {name: chosen[name] for name in ("untouched", "VHR", "VHR, all heads")}
        for world in ("neutral", "usual"):
            write(world, few, seeds[:2])
    if args.part == "questions":
        few = {name: arms(model)[name] for name in ("untouched", "VHR", "VHR, all heads", "random heads")}
        for world in ("breaking", "neutral"):
            found = answered(model, few, galleries_of(world, args.scenes, seeds[:1]))
            add(f"{world} questions", _rows(found))
    if args.part == "search":
        writers = {"greedy": [under()], "beams": [searching()], "OPERA": [searching(1.0)]}
        found = captions(model, writers, galleries_of("breaking", args.scenes, seeds[:1]))
        add("breaking captions", _rows(found))


if __name__ == "__main__":
    main()
