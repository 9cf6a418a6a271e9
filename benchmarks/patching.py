"""How long patching takes, and how well attribution screens for it.

    python benchmarks/patching.py --out benchmarks/results/patching_cpu.json

Path patching of all heads to the logits, activation patching of all heads (the slow truth), and
attribution patching on the same prompts, of which the model answers all right.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from headscope.probes import (
    TASKS,
    Effects,
    Model,
    Prompt,
    activation_patching,
    attribution_patching,
    known,
    load,
    path_patching,
)

TOP = 10


def prompts_of(model: Model, task: str, count: int, seed: int) -> list[Prompt]:
    reader = model.reader(TASKS[task])
    made = TASKS[task].prompts(reader, lengths=[160], per_length=2 * count, seed=seed, haystack=None)
    right = known(model, made)[:count]
    if len(right) < count:
        raise SystemExit(f"{model.name} answers only {len(right)} of {len(made)} {task!r} prompts right.")
    return right


def timed(call: Callable[[], Effects]) -> tuple[Effects, dict[str, float]]:
    """CPU time of the process tells on a shared machine what the wall clock would on an idle one."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, {
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }


def table(effects: Effects, count: int = TOP) -> list[dict[str, Any]]:
    found = effects.estimate()
    return [
        {
            "head": str(h),
            "change": round(float(found.value[h.layer, h.head]), 4),
            "se": round(float(found.se[h.layer, h.head]), 4),
        }
        for h in effects.top(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--paths", type=int, default=64, help="prompts for path patching")
    parser.add_argument("--pairs", type=int, default=16, help="prompts for activation patching")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = load(args.model)
    many = prompts_of(model, args.task, args.paths, args.seed)
    few = many[: args.pairs]
    results: dict[str, Any] = {
        "command": "python benchmarks/patching.py " + " ".join(sys.argv[1:]),
        "device": f"{torch.get_num_threads()} CPU threads" if model.device.type == "cpu" else "GPU",
        "model": args.model, "task": args.task, "seed": args.seed,
        "heads": model.geometry.layers * model.geometry.heads,
        "tokens_per_prompt": float(np.mean([p.answer_rows[0] + 1 for p in many])),
    }  # fmt: skip
    for mlps in ("frozen", "recomputed"):
        effects, took = timed(partial(path_patching, model, many, mlps=mlps))
        results[f"paths_{mlps}"] = {"prompts": len(many), **took, "top": table(effects)}
        print(json.dumps(results[f"paths_{mlps}"]), flush=True)
    cheap, took = timed(lambda: attribution_patching(model, few))
    results["attribution"] = {"prompts": len(few), **took, "top": table(cheap, 27)}
    print(json.dumps(results["attribution"]), flush=True)
    exact, took = timed(lambda: activation_patching(model, few))
    results["exact"] = {"prompts": len(few), **took, "top": table(exact)}
    found = exact.estimate().value.ravel(), cheap.estimate().value.ravel()
    best = set(exact.top(TOP))
    results["screening"] = {
        "speedup_cpu": round(results["exact"]["cpu_seconds"] / results["attribution"]["cpu_seconds"], 1),
        "pearson": round(float(stats.pearsonr(*found).statistic), 4),
        "recall_of_top_10": {
            str(k): len(best & set(cheap.top(k))) / TOP for k in (10, 15, 20, 27)
        },
    }  # fmt: skip
    print(json.dumps(results["screening"]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
