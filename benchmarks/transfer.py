"""Which heads the tasks of `smollm2` share, and what taking the arithmetic heads away costs.

    python benchmarks/transfer.py --out benchmarks/results/transfer_smollm2.json

Also states each task's accuracy, on all prompts tried. Effects are those of attribution patching
on prompts that the model answers right; sets hold 5% of the heads. Accuracy after ablation is
measured on other such prompts, against random heads of the same layers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from headscope.heads import prune, random_heads, transfer
from headscope.heads.intervals import share
from headscope.probes import TASKS, Effects, Model, Prompt, attribution_patching, load, trials, trials_under

TASK_NAMES = (
    "ioi", "greater_than", "arithmetic", "coloured_objects", "delimiters", "choice", "conflict",
)  # fmt: skip


def interval(hits: np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in (hits.mean(), *share(hits))]


def ask(model: Model, task: str, tried: int, seed: int) -> tuple[list[Prompt], dict[str, Any]]:
    """The prompts of a task that the model answers right, and its accuracy on all."""
    made = TASKS[task].prompts(model.tokenizer, lengths=[160], per_length=tried, seed=seed, haystack=None)
    found = trials(model, made)
    kinds = len(made[0].contrast.right) + len(made[0].contrast.wrong) if made[0].contrast else 0
    return [p for p, right in zip(made, found.right, strict=True) if right], {
        "tried": tried, "right": interval(found.right), "wrong": interval(found.wrong),
        "answers_told_apart": kinds,
    }  # fmt: skip


def ablated(
    model: Model, effects: dict[str, Effects], held: dict[str, list[Prompt]], owner: str, top: int, seed: int
) -> dict[str, Any]:
    """Accuracy of every task without the `owner`'s top heads, and without random ones of their layers."""
    heads = effects[owner].top(top)
    rng = np.random.default_rng(seed)
    drawn = [random_heads(heads, model.geometry.heads, (), rng) for _ in range(2)]
    sets = [heads, *(found for found in drawn if found)]
    rows = {}
    for task, prompts in held.items():
        chosen, *controls = trials_under(model, prompts, [(prune(model, s, "all"),) for s in sets])
        rows[task] = {
            "prompts": len(prompts), "without": interval(chosen.right),
            "without_random": interval(np.concatenate([c.right for c in controls])),
        }  # fmt: skip
        print(owner, task, rows[task], flush=True)
    return {"heads": [str(h) for h in heads], "tasks": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tried", type=int, default=100, help="prompts asked per task")
    parser.add_argument("--prompts", type=int, default=16, help="right ones to learn from, and to test on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.process_time()
    model = load(args.model)
    total = model.geometry.layers * model.geometry.heads
    top = total // 20
    results: dict[str, Any] = {
        "command": "python benchmarks/transfer.py " + " ".join(sys.argv[1:]),
        "model": args.model, "fingerprint": model.fingerprint, "seed": args.seed,
        "heads": total, "top": top, "accuracy": {}, "top_heads": {},
    }  # fmt: skip
    effects, held = dict[str, Effects](), dict[str, list[Prompt]]()
    for task in TASK_NAMES:
        right, results["accuracy"][task] = ask(model, task, args.tried, args.seed)
        print(task, results["accuracy"][task], flush=True)
        learned, held[task] = right[: args.prompts], right[args.prompts : 2 * args.prompts]
        effects[task] = attribution_patching(model, learned)
        results["top_heads"][task] = [str(h) for h in effects[task].top(top)]
        if len(held[task]) < 5:
            del held[task]
    shared = transfer({task: e.estimate().value for task, e in effects.items()}, top, seed=args.seed)
    results["overlap"] = json.loads(shared.round(4).to_json(orient="records"))
    print(shared.round(3).to_string(), flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    results["without_arithmetic_heads"] = ablated(model, effects, held, "arithmetic", top, args.seed)
    results["cpu_seconds"] = round(time.process_time() - began)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
