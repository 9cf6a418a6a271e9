"""Circuits of a task: what each method costs, what it recalls of the exact answer, what its circuit keeps.

    python benchmarks/circuits.py --out benchmarks/results/circuits_ioi.json

Cheap methods and baselines see the same prompts as exact patching; faithfulness is measured on prompts
that no method has seen. All prompts are ones that the model answers right. `--parts` runs some of it:

- `recall`: exact patching, and the recall of its ten largest heads by every other method;
- `heads`: faithfulness of circuits of heads, ablation by counterfactual, mean and zero;
- `edges`: faithfulness of circuits of edges;
- `stability`: overlap between seeds at 5 ... 250 examples.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headscope.probes import (
    METHODS,
    Circuit,
    Curve,
    HeadId,
    Model,
    Pairs,
    discover,
    faithfulness,
    load,
    pairs,
    recall,
    roc_auc,
    stability,
)

TOP = 10
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
CHEAP = ("attribution", "eap", "eap-ig", "paths", "difference", "layer", "random")
DRAWS = 3  # of the random baseline
EDGED = ("eap", "eap-ig", "random")  # methods that score all edges


def timed(model: Model, task: Pairs, method: str, seed: int = 0) -> tuple[Circuit, dict[str, Any]]:
    """CPU time of the process tells on a shared machine what the wall clock would on an idle one."""
    cpu = time.process_time()
    circuit = discover(model, task, method=method, seed=seed)
    return circuit, {
        "prompts": circuit.prompts, "forward": circuit.cost.forward, "backward": circuit.cost.backward,
        "seconds": round(circuit.cost.seconds, 1), "cpu_seconds": round(time.process_time() - cpu, 1),
    }  # fmt: skip


def recalled(model: Model, few: Pairs, many: Pairs) -> dict[str, Any]:
    """Every method on the prompts of exact patching, and on more of them where that is cheap."""
    exact, took = timed(model, few, "patching")
    truth = exact.top(TOP)
    frame = exact.heads()
    found: dict[str, Any] = {
        "exact": took | {
            "clean": exact.clean, "counterfactual": exact.counterfactual,
            "top": [
                {"head": str(h), **frame.loc[h.layer * model.geometry.heads + h.head, ["score", "score_se"]]}
                for h in exact.top(20)
            ],
        }
    }  # fmt: skip
    print(json.dumps(found["exact"]), flush=True)
    scores = exact.heads()["score"]
    for method in CHEAP:
        circuit, took = timed(model, few, method)
        found[method] = took | grades(circuit, truth)
        found[method]["pearson"] = round(float(np.corrcoef(scores, circuit.heads()["score"])[0, 1]), 4)
        print(method, json.dumps(found[method]), flush=True)
    found["random"] |= averaged(
        [grades(discover(model, few, method="random", seed=s), truth) for s in range(100)]
    )
    circuit, took = timed(model, many, "attribution")
    found["attribution_many"] = took | grades(circuit, truth)
    print("attribution", json.dumps(found["attribution_many"]), flush=True)
    return found


def grades(circuit: Circuit, truth: Any) -> dict[str, float]:
    named = {f"recall_{k}": round(recall(circuit, truth, k), 3) for k in (10, 20, 27)}
    return named | {"auc": round(roc_auc(circuit, truth), 4)}


def averaged(all_grades: list[dict[str, float]]) -> dict[str, float]:
    return {k: round(float(np.mean([g[k] for g in all_grades])), 3) for k in all_grades[0]}


def kept(
    model: Model, learn: Pairs, held: Pairs, grain: Any, ablations: Any, methods: Any
) -> Iterator[dict[str, Any]]:
    """Curves on held-out prompts, one for each method and ablation; random ones averaged over draws."""
    for method in methods:
        circuits = [found_on(model, learn, method, i) for i in range(DRAWS if method == "random" else 1)]
        for ablation in ablations:
            curves = [
                faithfulness(model, c, held.prompts, grain=grain, ablation=ablation, sizes=SIZES)
                for c in circuits
            ]
            yield {"learned": len(learn.prompts), **summary(curves)}


_found: dict[tuple[str, int], Circuit] = {}


def found_on(model: Model, learn: Pairs, method: str, seed: int) -> Circuit:
    """A circuit, found once for all parts."""
    if (method, seed) not in _found:
        _found[method, seed] = discover(model, learn, method=method, seed=seed)
    return _found[method, seed]


def summary(curves: list[Curve]) -> dict[str, Any]:
    first = curves[0]
    mean = {
        name: np.mean([getattr(c, name) for c in curves], 0).round(4).tolist()
        for name in ("kept", "f", "cpr", "cmd")
    }
    return {
        "method": first.method, "grain": first.grain, "ablation": first.ablation, "draws": len(curves),
        "prompts": first.prompts, "whole": round(first.whole, 4), "nothing": round(first.nothing, 4),
        "share": first.share, "count": first.count, **mean, "f_se": [round(x or 0, 4) for x in first.f_se],
        "cpr_se": round(first.cpr_se or 0, 4), "cmd_se": round(first.cmd_se or 0, 4),
        "kept_share": [round(m / first.whole, 4) for m in mean["kept"]],
        "smallest_that_keeps_80": [c.smallest(0.8) for c in curves],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--learn", type=int, default=64, help="prompts to find circuits on")
    parser.add_argument("--exact", type=int, default=16, help="of them, those for exact patching")
    parser.add_argument("--held", type=int, default=32, help="other prompts to test circuits on")
    parser.add_argument("--held-edges", type=int, default=12, help="of them, those for circuits of edges")
    parser.add_argument("--parts", nargs="+", default=["recall", "heads", "edges", "stability"])
    parser.add_argument("--methods", nargs="+", default=["attribution", "eap-ig", *CHEAP[3:]])
    parser.add_argument("--ablations", nargs="+", default=["counterfactual", "mean", "zero"])
    parser.add_argument("--counts", nargs="+", type=int, default=[5, 10, 50, 250], help="of stability")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of stability")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = load(args.model)
    learn, held = pairs(model, args.task, args.learn + args.held, seed=args.seed).split(args.learn)
    few = learn.split(args.exact)[0]
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    results |= {
        "command": "python benchmarks/circuits.py " + " ".join(sys.argv[1:]), "model": args.model,
        "fingerprint": model.fingerprint, "task": args.task, "seed": args.seed,
        "accuracy": learn.accuracy, "tried": learn.tried,
        "device": f"{torch.get_num_threads()} CPU threads" if model.device.type == "cpu" else "GPU",
        "methods": {m.name: {"summary": m.summary, "source": m.source} for m in METHODS},
    }  # fmt: skip

    def save() -> None:
        args.out.write_text(json.dumps(results, indent=1) + "\n")

    if "recall" in args.parts:
        results["recall"] = recalled(model, few, learn)
        save()
    edges, some = [m for m in args.methods if m in EDGED], held.split(args.held_edges)[0]
    for grain, test, methods in (("heads", held, args.methods), ("edges", some, edges)):
        if grain not in args.parts:
            continue
        rows = {(r["method"], r["ablation"], r["learned"]): r for r in results.get(grain, [])}
        for row in kept(model, learn, test, grain, args.ablations, methods):
            print(json.dumps(row), flush=True)
            rows[row["method"], row["ablation"], row["learned"]] = row
            results[grain] = list(rows.values())
            save()
    if "stability" in args.parts:
        drawn = pairs(model, args.task, 2 * max(args.counts), seed=args.seed + 1)
        truth = [HeadId.parse(h["head"]) for h in results["recall"]["exact"]["top"][:TOP]]
        for method in args.methods:
            found = stability(model, drawn, [method], counts=args.counts, seeds=args.seeds, truth=truth)
            print(found.round(3).to_string(), flush=True)
            rest = [r for r in results.get("stability", []) if r["method"] != method]
            results["stability"] = rest + json.loads(found.round(4).to_json(orient="records"))
            save()


if __name__ == "__main__":
    main()
