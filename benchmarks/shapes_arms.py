"""What reinforcing and redistributing attention does to hallucination of `shapes`.

    python benchmarks/shapes_arms.py --part captions --scenes 80 --out benchmarks/results/shapes_captions.json

and so on for the other parts; docs/vision.md has the command of each. The settings of VHR and VAR
were chosen on the development seeds 1001 and 1002 (part `development`); everything else is measured
on seeds from 9001 on, which nothing was chosen on.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headscope.heads import answered, captions, galleries_of, outliers, searching, under
from headscope.probes import (
    DESCRIBE,
    HeadId,
    Model,
    Picture,
    Spec,
    divergence,
    fit,
    gallery,
    generate,
    load,
    versions,
)
from headscope.probes.toys.shapes.blinkers import sighted_heads

LAYERS, SHARE, ALPHA = (2, 3, 4, 5), 0.25, 1.25
_DEVELOPMENT, _HELD_OUT = (1001, 1002), 9001
PARTS = ("captions", "sweep", "questions", "search", "development")
_TIMED, _LOOKED = 12, 24
Sets = list[tuple[Spec, ...]]


def vhr(model: Model, alpha: float = ALPHA, **settings: Any) -> Spec:
    """VHR as it was chosen, but for what is given."""
    settings = {"layers": LAYERS, "share": SHARE} | settings
    return fit(model, "vhr", strength=alpha, positions="generated", **settings)


def published(model: Model, alpha: float = 2.0) -> Spec:
    """VHR with the paper's layers, scaled to the depth, and its median."""
    return fit(model, "vhr", strength=alpha, positions="generated")


def scaled(model: Model, heads: Sequence[HeadId], alpha: float = ALPHA) -> tuple[Spec, ...]:
    return (fit(model, "scale", heads=list(heads), strength=alpha, positions="generated"),)


def chosen(model: Model, spec: Spec) -> NDArray[np.float64]:
    """How often VHR would choose each head in the first of the development scenes, read from the
    untouched model, and, to tell apart heads that it never chooses, a little of their VHD. [L, H]"""
    assert model.vision is not None
    prompts = [model.vision.prompt(DESCRIBE, [p]) for p in gallery("breaking", _LOOKED, 1001).pictures]
    read = [divergence(model, p, [len(p) - 1]) for p in prompts]
    vhd, text = (np.stack([getattr(r, part)[..., 0].cpu().numpy() for r in read]) for part in ("vhd", "text"))
    kept = np.where(outliers(vhd, text), 0.0, vhd)
    above = kept > np.quantile(kept, 1 - float(str(spec.settings["share"])), axis=-1, keepdims=True)
    return above.mean(0) + 1e-6 * vhd.mean(0)


def likeliest(model: Model, spec: Spec) -> list[HeadId]:
    """As many heads as VHR may choose in each of its layers: those that it chooses most often."""
    often = chosen(model, spec)
    return [HeadId(i, int(h)) for i in spec.layers for h in np.argsort(-often[i])[: _many(model, spec)]]


def drawn(model: Model, spec: Spec, without: Sequence[HeadId] = (), draws: int = 3) -> Sets:
    """As many random heads as VHR may choose in each of its layers, none of `without`."""
    rng = np.random.default_rng(7)
    allowed = [[h for h in range(model.geometry.heads) if HeadId(i, h) not in without] for i in spec.layers]
    return [
        scaled(model, [HeadId(i, int(h)) for i, some in zip(spec.layers, allowed, strict=True)
                       for h in rng.permutation(some)[: _many(model, spec)]], spec.strengths[0])
        for _ in range(draws)
    ]  # fmt: skip


def _many(model: Model, spec: Spec) -> int:
    return int(float(str(spec.settings["share"])) * model.geometry.heads)


def arms(model: Model) -> dict[str, Sets]:
    """VHR and other heads in the place of its choice, as many in each layer and as strongly."""
    spec, every = vhr(model), range(model.geometry.heads)
    often = likeliest(model, spec)
    return {
        "untouched": [()],
        "VHR": [(spec,)],
        "random heads": drawn(model, spec, draws=4),
        "random heads, none that VHR likes": drawn(model, spec, often),
        "random heads, none sighted": drawn(model, spec, sighted_heads()),
        "fixed heads": [scaled(model, often)],
        "sighted heads": [scaled(model, sighted_heads())],
        "all heads": [scaled(model, [HeadId(i, h) for i in LAYERS for h in every])],
    }


def sweep(model: Model) -> dict[str, Sets]:
    """Other strengths, the published settings, and VAR."""
    paper, var = published(model), fit(model, "var")
    loose = fit(model, "var", factor=0.05, take_fraction=1.0, min_nonsink_ratio=0.0)
    return {
        "untouched": [()],
        **{f"VHR at alpha {a:g}": [(vhr(model, a),)] for a in (0.5, 1.5, 2.0, 3.0)},
        **{f"random heads at alpha {a:g}": drawn(model, vhr(model, a), draws=2) for a in (1.5, 2.0)},
        "published VHR": [(paper,)],
        "random heads, as many as published": drawn(model, paper, draws=2),
        "random heads, as many, none sighted": drawn(model, paper, sighted_heads(), draws=1),
        "VAR": [(var,)],
        "VHR and VAR": [(vhr(model), var)],
        "VAR, tau a sixth": [(loose,)],
        "VHR and VAR, tau a sixth": [(vhr(model), loose)],
    }


def few(model: Model) -> dict[str, Sets]:
    """The arms that other worlds and questions are measured under."""
    every = arms(model)
    return {name: every[name][:2] for name in ("untouched", "VHR", "random heads")}


def development(model: Model) -> dict[str, Sets]:
    """What was tried on the development seeds."""
    found: dict[str, Sets] = {"untouched": [()]}
    for share in (0.25, 0.5):
        for alpha in (1.25, 1.5, 1.75, 2.0):
            found[f"VHR share {share} alpha {alpha:g}"] = [(vhr(model, alpha, share=share),)]
    for alpha in (1.25, 1.5):
        found[f"VHR outliers kept alpha {alpha:g}"] = [(vhr(model, alpha, drop_outliers=False),)]
    for alpha in (1.5, 2.0, 3.0):
        found[f"VHR as published alpha {alpha:g}"] = [(published(model, alpha),)]
    for alpha in (1.25, 1.5, 2.0):
        found[f"random heads alpha {alpha:g}"] = drawn(model, vhr(model, alpha))
    found["random heads as published alpha 2"] = drawn(model, published(model))
    for factor, take, least in ((0.1, 0.4, 0.5), (0.1, 1.0, 0.0), (0.05, 1.0, 0.0)):
        spec = fit(model, "var", factor=factor, take_fraction=take, min_nonsink_ratio=least)
        found[f"VAR factor {factor} take_fraction {take} min_nonsink_ratio {least}"] = [(spec,)]
    return found


def seconds(model: Model, pictures: tuple[Picture, ...]) -> dict[str, list[float]]:
    """Time per word of captions, one picture at a time, arms in turn."""
    found: dict[str, list[float]] = {"untouched": [], "VHR": []}
    specs: dict[str, tuple[Spec, ...]] = {"untouched": (), "VHR": (vhr(model),)}
    for picture in pictures[:_TIMED]:
        for name, some in specs.items():
            start = time.perf_counter()
            said = generate(model, DESCRIBE, *some, pictures=[picture], max_new_tokens=48)
            found[name].append((time.perf_counter() - start) / (len(said.split()) + 1))
    return found


def _rows(found: pd.DataFrame) -> Any:
    """One object per row; what is not a number is null."""
    return json.loads(found.round(4).to_json(orient="records"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, required=True)
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

    def write(world: str, some: dict[str, Sets], at: list[int]) -> None:
        writers = {name: [under(*s) for s in sets] for name, sets in some.items()}
        found = captions(model, writers, galleries_of(world, args.scenes, at))
        add(f"{world} captions", _rows(found))

    if args.part == "development":
        result["seeds"] = list(_DEVELOPMENT)
        write("breaking", development(model), list(_DEVELOPMENT))
    if args.part == "captions":
        add("seconds per word", seconds(model, gallery("breaking", _TIMED, _HELD_OUT).pictures))
        write("breaking", arms(model), seeds)
        write("neutral", few(model), seeds[:2])
    if args.part == "sweep":
        write("breaking", sweep(model), seeds)
    if args.part == "questions":
        for world in ("breaking", "neutral"):
            found = answered(model, few(model), galleries_of(world, args.scenes, seeds[:1]))
            add(f"{world} questions", _rows(found))
    if args.part == "search":
        writers = {"greedy": [under()], "beams": [searching()], "OPERA": [searching(1.0)]}
        found = captions(model, writers, galleries_of("breaking", args.scenes, seeds[:1]))
        add("breaking captions", _rows(found))


if __name__ == "__main__":
    main()
