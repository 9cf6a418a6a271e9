"""Circuits of a task: what each method costs, what it recalls of the exact answer, what its circuit keeps.

    python benchmarks/circuits.py --out benchmarks/results/circuits_ioi.json

Cheap methods and baselines see the same prompts as exact patching; faithfulness is measured on prompts
that no method has seen. All prompts are ones that the model answers right. `--parts` runs some of it,
and each part replaces what the file had of it, so that its rows come from the one command beside them:

- `recall`: exact patching, and the recall of its ten largest heads by every other method;
- `heads`: faithfulness of circuits of heads, ablation by counterfactual, mean and zero;
- `pruning`: the same of heads pruned in rounds towards each ablation;
- `edges`: faithfulness of circuits of edges;
- `stability`: overlap between seeds at 5 ... 250 examples, graded against the exact ten of `recall`.

`--methods` narrows the methods of all but the first.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
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
from headscope.probes.circuits.method import ABLATIONS
from headscope.probes.files import write_atomically
from headscope.probes.software import versions

Rows = Iterator[dict[str, Any]]
TOP = 10
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
CHEAP = ("attribution", "attribution-ig", "eap", "eap-ig", "paths", "difference", "layer", "random")
SCORED = ("attribution", "attribution-ig", "eap", "eap-ig")
PARTS = {  # and the methods that each compares; `method@mean` scores towards that ablation
    "recall": CHEAP,
    "heads": ("patching", *CHEAP, *(f"{m}@{a}" for m in SCORED if m != "eap" for a in ("mean", "zero"))),
    "pruning": ("pruning@counterfactual", "pruning@mean", "pruning@zero"),
    "edges": ("eap", "eap-ig", "random", "eap-ig@mean", "eap-ig@zero"),  # those that score all edges
    "stability": ("attribution", "attribution-ig", "eap-ig", "sae-codes", "difference", "layer", "random"),
}
DRAWS = 5  # of the random baseline


def provenance(model: Model, out: Path) -> dict[str, Any]:
    """What was run on what; the command without the folder that its file was written to."""
    words = [out.name if word == str(out) else word for word in sys.argv[1:]]
    gpu = model.device.type == "cuda"
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "device": torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads",
        "dtype": str(model.hf.dtype).removeprefix("torch."), "versions": versions(),
    }  # fmt: skip


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


def kept(model: Model, learn: Pairs, held: Pairs, part: str, args: argparse.Namespace) -> Rows:
    """Curves on held-out prompts, one for each method and ablation; random ones averaged over draws."""
    grain: Any = "edges" if part == "edges" else "heads"
    for method in chosen(args, part):
        circuits = [found_on(model, learn, method, i) for i in range(DRAWS if method == "random" else 1)]
        towards = method.partition("@")[2]
        for ablation in (a for a in args.ablations if towards in ("", a)):
            curves = [
                faithfulness(model, c, held.prompts, grain=grain, ablation=ablation, sizes=SIZES)
                for c in circuits
            ]
            yield {"method": method, "learned": len(learn.prompts), **summary(curves)}


def stable(model: Model, truth: list[HeadId], args: argparse.Namespace) -> Rows:
    """Overlap between draws of prompts, a row for each method and number of prompts."""
    drawn = pairs(model, args.task, 2 * max(args.counts), seed=args.seed + 1)
    for method, count in product(chosen(args, "stability"), args.counts):
        found = stability(model, drawn, [method], counts=[count], seeds=args.seeds, truth=truth)
        yield json.loads(found.round(4).to_json(orient="records"))[0] | {"seeds": len(args.seeds)}


def chosen(args: argparse.Namespace, part: str) -> list[str]:
    return [m for m in PARTS[part] if not args.methods or m.partition("@")[0] in args.methods]


def found_with(model: Model, learn: Pairs, method: str, seed: int) -> Circuit:
    """A circuit by `method`, or by `method@ablation`, towards that ablation."""
    name, _, towards = method.partition("@")
    return discover(model, learn, method=name, settings={"towards": towards} if towards else {}, seed=seed)


_found: dict[tuple[str, int], Circuit] = {}


def found_on(model: Model, learn: Pairs, method: str, seed: int) -> Circuit:
    """A circuit, found once for all parts."""
    if (method, seed) not in _found:
        _found[method, seed] = found_with(model, learn, method, seed)
    return _found[method, seed]


def summary(curves: list[Curve]) -> dict[str, Any]:
    first = curves[0]
    every = {name: np.array([getattr(c, name) for c in curves]) for name in ("kept", "f", "cpr", "cmd")}
    mean = {name: values.mean(0).round(4).tolist() for name, values in every.items()}
    shares = every["kept"] / first.whole
    row = {
        "grain": first.grain, "ablation": first.ablation, "draws": len(curves),
        "prompts": first.prompts, "whole": round(first.whole, 4), "nothing": round(first.nothing, 4),
        "share": first.share, "count": first.count, **mean,
        "kept_share": shares.mean(0).round(4).tolist(),
        "smallest_that_keeps_80": [c.smallest(0.8) for c in curves],
    }  # fmt: skip
    if len(curves) > 1:  # the spread over draws, which is larger than each one's error
        return row | {"f_sd": every["f"].std(0, ddof=1).round(4).tolist(),
                      "kept_share_sd": shares.std(0, ddof=1).round(4).tolist()}  # fmt: skip
    return row | {
        "f_se": [round(x or 0, 4) for x in first.f_se],
        "kept_share_se": [round(x or 0, 4) for x in first.kept_share_se],
        "cpr_se": round(first.cpr_se or 0, 4), "cmd_se": round(first.cmd_se or 0, 4),
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--learn", type=int, default=64, help="prompts to find circuits on")
    parser.add_argument("--exact", type=int, default=16, help="of them, those for exact patching")
    parser.add_argument("--held", type=int, default=32, help="other prompts to test circuits on")
    parser.add_argument("--held-edges", type=int, default=12, help="of them, those for circuits of edges")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="+", choices=METHODS.names(), default=[])
    parser.add_argument("--ablations", nargs="+", choices=ABLATIONS, default=list(ABLATIONS))
    parser.add_argument("--counts", nargs="+", type=int, default=[5, 10, 50, 250], help="of stability")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of stability")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; parts that it has are kept")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    model = load(args.model, dtype="float32")
    learn, held = pairs(model, args.task, args.learn + args.held, seed=args.seed).split(args.learn)
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    results |= {
        "model": args.model, "fingerprint": model.fingerprint, "task": args.task,
        "methods": {m.name: {"summary": m.summary, "source": m.source} for m in METHODS},
    }  # fmt: skip
    runs: dict[str, Any] = results.setdefault("runs", {})

    def save(part: str, found: Any, began: float) -> None:
        results[part] = found
        runs[part] = provenance(model, args.out) | {
            "seed": args.seed, "accuracy": learn.accuracy, "tried": learn.tried,
            "seconds": round(time.perf_counter() - began, 1),
        }  # fmt: skip
        text = json.dumps(results, indent=1) + "\n"
        write_atomically(args.out, lambda file: file.write_text(text))

    def exact_ten() -> list[HeadId]:
        if "recall" not in results:
            sys.exit(f"{args.out} holds no recall to grade stability against; run that part first.")
        return [HeadId.parse(row["head"]) for row in results["recall"]["exact"]["top"][:TOP]]

    if "recall" in args.parts:
        began = time.perf_counter()
        save("recall", recalled(model, learn.split(args.exact)[0], learn), began)
    some = held.split(args.held_edges)[0]
    rows_of: dict[str, Callable[[], Rows]] = {
        "heads": lambda: kept(model, learn, held, "heads", args),
        "pruning": lambda: kept(model, learn, held, "pruning", args),
        "edges": lambda: kept(model, learn, some, "edges", args),
        "stability": lambda: stable(model, exact_ten(), args),
    }
    for part in (p for p in rows_of if p in args.parts):
        rows, began = list[dict[str, Any]](), time.perf_counter()
        for row in rows_of[part]():
            print(json.dumps(row), flush=True)
            rows.append(row)
            save(part, rows, began)


if __name__ == "__main__":
    main()
