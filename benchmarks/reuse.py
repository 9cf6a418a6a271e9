"""Do the tasks of `smollm2` reuse heads, and can one task be repaired through them?

    python benchmarks/reuse.py --out benchmarks/results/reuse_smollm2.json

Circuits are the 13 largest heads (5%) by attribution patching on prompts that the model answers right.
Overlap is tested against heads exchanged within their layers; each circuit's heads are then removed
(mean ablation) from every task; and heads that `coloured_objects` shares with `ioi` are aimed at the
wrong answers of `coloured_objects`, which the model answers at chance.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from circuits import provenance

from headscope.heads import cross_ablation, repair, shared_heads
from headscope.probes import TASKS, discover, load, pairs
from headscope.probes.files import write_atomically

TASK_NAMES = ("ioi", "coloured_objects", "greater_than", "docstring", "induction", "retrieval")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--learn", type=int, default=16, help="prompts a task to find its circuit on")
    parser.add_argument("--held", type=int, default=8, help="others to remove circuits on")
    parser.add_argument("--repair", type=int, default=64, help="prompts of the repair")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    began, model = time.perf_counter(), load(args.model, dtype="float32")
    top = model.geometry.layers * model.geometry.heads // 20
    results: dict[str, Any] = provenance(model, args.out) | {
        "model": args.model, "fingerprint": model.fingerprint, "seed": args.seed, "top": top,
        "accuracy": {}, "circuits": {},
    }  # fmt: skip

    def save(**more: Any) -> None:
        results.update(more, seconds=round(time.perf_counter() - began))
        text = json.dumps(results, indent=1) + "\n"
        write_atomically(args.out, lambda file: file.write_text(text))

    circuits, held = {}, {}
    for task in TASK_NAMES:
        found = pairs(model, task, args.learn + args.held, seed=args.seed, least=0.3)
        learn, held[task] = found.split(args.learn)
        circuits[task] = discover(model, learn, method="attribution", seed=args.seed)
        results["accuracy"][task] = [found.accuracy, found.tried]
        results["circuits"][task] = [str(head) for head in circuits[task].top(top)]
        print(task, results["accuracy"][task], *results["circuits"][task], flush=True)
    overlap = shared_heads(list(circuits.values()), top, seed=args.seed)
    print(overlap.round(3).to_string(), flush=True)
    save(overlap=json.loads(overlap.round(5).to_json(orient="records")))
    candidates = [h for h in circuits["coloured_objects"].top(top) if h in circuits["ioi"].top(top)]
    made = TASKS["coloured_objects"].prompts(
        model.tokenizer, lengths=[160], per_length=args.repair, seed=args.seed + 1, haystack=None
    )
    repaired = repair(model, made, candidates, seed=args.seed)
    print(repaired.round(3).to_string(), flush=True)
    save(
        repair=json.loads(repaired.round(5).to_json(orient="records")), candidates=list(map(str, candidates))
    )
    removed = cross_ablation(model, list(circuits.values()), held, top, seed=args.seed)
    print(removed.pivot(index="circuit", columns="task", values="left").round(2).to_string(), flush=True)
    save(removed=json.loads(removed.round(4).to_json(orient="records")))


if __name__ == "__main__":
    main()
