"""SAE codes against exact patching: the published recipe, and what helps it without looking at labels.

    python benchmarks/circuits.py --parts recall --out benchmarks/results/circuits_ioi.json
    python benchmarks/sae_codes.py --out benchmarks/results/sae_codes_ioi.json

The truth is the 13 heads with the largest effect by exact patching (the first command). Each setting
runs with several seeds, which draw the examples the autoencoder learns from and its first weights; the
prompts that are scored are the same. One autoencoder gives scores of heads and of pairs, raw and
divided by all codes. Standard errors are over seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import stats

from headscope.probes import Circuit, HeadId, Model, Node, discover, jaccard, load, pairs, roc_auc
from headscope.probes.circuits.codes import appearances
from headscope.probes.circuits.foreign import foreign
from headscope.probes.circuits.methods.sae_codes import (
    CodesSettings,
    codes_of,
    joint_scores,
    outputs,
    own_scores,
    scaled,
)

TOP = 13
QUICK = {"epochs": 150, "rate": 3e-3}  # a third of the training
SETTINGS: dict[str, dict[str, Any]] = {
    "published": {},
    "quick": QUICK,
    "quick, λ=.1": QUICK | {"sparsity": 0.1},
    "quick, λ=.3": QUICK | {"sparsity": 0.3},
    "quick, per head, λ=.1": QUICK | {"scale": "head", "sparsity": 0.1},
    "quick, per head, λ=.3": QUICK | {"scale": "head", "sparsity": 0.3},
    "quick, λ=1": QUICK | {"sparsity": 1.0},
}
WAYS = {
    "nodes": ("nodes", "unique"), "nodes, share": ("nodes", "share"),
    "nodes, information": ("nodes", "information"),
    "edges": ("edges", "unique"), "edges, share": ("edges", "share"),
}  # fmt: skip


class Judge:
    """Scores of heads [H] as a circuit that can be graded."""

    def __init__(self, model: Model, truth: list[HeadId]) -> None:
        self.model, self.truth = model, truth

    def circuit(self, scores: NDArray[np.float64]) -> Circuit:
        g = self.model.geometry
        nodes = tuple(
            Node(id=str(HeadId(i // g.heads, i % g.heads)), kind="head", layer=i // g.heads, score=float(v))
            for i, v in enumerate(scores)
        )
        return Circuit(
            method="sae-codes", task="ioi", prompts=0, model=self.model.name, nodes=nodes,
            fingerprint=self.model.fingerprint, geometry=g,
        )  # fmt: skip

    def auc(self, scores: NDArray[np.float64]) -> float:
        return roc_auc(self.circuit(scores), self.truth)

    def all(self, runs: list[NDArray[np.float64]]) -> dict[str, Any]:
        """Grades over seeds, of their mean, and how much they agree, which needs no labels."""
        grades = [self.auc(run) for run in runs]
        ranks = [stats.spearmanr(a, b)[0] for i, a in enumerate(runs) for b in runs[i + 1 :]]
        return {
            "auc": round(float(np.mean(grades)), 4),
            "auc_se": round(float(np.std(grades, ddof=1) / len(grades) ** 0.5), 4),
            "auc_of_the_mean": round(self.auc(np.mean(runs, 0)), 4),
            "jaccard": round(jaccard(self.circuit(run).top(TOP) for run in runs), 3),
            "spearman": round(float(np.mean(ranks)), 3),
        }


def scores_of(both: Any, settings: CodesSettings) -> dict[str, NDArray[np.float64]]:
    found = {}
    for name, (level, score) in WAYS.items():
        chosen = settings.model_copy(update={"score": score})
        found[name] = (
            appearances(joint_scores(both, chosen)) if level == "edges" else own_scores(both, chosen)
        )
    return found


def baselines(model: Model, judge: Judge, x: torch.Tensor, exact: Any) -> dict[str, Any]:
    """The same heads by other means; the difference is that of the prompts from the same negatives."""
    apart = (x[0] - x[1]).mean(0).norm(dim=-1).flatten().cpu().numpy()
    g = model.geometry
    others = {
        m: round(roc_auc(discover(model, exact, method=m), judge.truth), 4)
        for m in ("attribution", "difference")
    }
    depth = np.repeat(np.arange(g.layers), g.heads).astype(float)
    return others | {"difference, foreign": round(judge.auc(apart), 4), "layer": round(judge.auc(depth), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=Path, default=Path("benchmarks/results/circuits_ioi.json"))
    parser.add_argument("--prompts", type=int, default=250, help="scored, and as many negatives")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scored", type=int, nargs="*", default=[25, 50, 125], help="fewer of them, too")
    parser.add_argument("--only-codes", action="store_true", help="without the baselines")
    parser.add_argument("--precision", default="bfloat16", help="of the autoencoder's products")
    parser.add_argument("--outputs", type=Path, help="keep the head outputs in this file, or take them")
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), help="some of the settings")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model, began = load("smollm2"), time.process_time()
    top = json.loads(args.truth.read_text())["recall"]["exact"]["top"][:TOP]
    judge = Judge(model, [HeadId.parse(row["head"]) for row in top])
    taken = args.outputs is not None and args.outputs.exists()
    asked = None if taken and args.only_codes else pairs(model, "ioi", args.prompts, seed=1)
    if asked is None or taken:
        x = load_file(args.outputs)["x"]
    else:
        x = outputs(model, foreign(asked.prompts))
        if args.outputs:
            save_file({"x": x}, args.outputs)
    results: dict[str, Any] = {
        "command": "python benchmarks/sae_codes.py " + shlex.join(sys.argv[1:]), "model": "smollm2",
        "fingerprint": model.fingerprint, "task": "ioi", "prompts": args.prompts, "negatives": "foreign",
        "truth": [str(head) for head in judge.truth],
        "cpu_seconds_of_outputs": None if taken else round(time.process_time() - began, 1), "settings": {},
    }  # fmt: skip
    if asked and not args.only_codes:
        results["accuracy"] = asked.accuracy
        results["baselines"] = baselines(model, judge, x, asked.split(16)[0])
    print(json.dumps(results), flush=True)
    for name in args.only:
        settings, runs = CodesSettings(**SETTINGS[name], precision=args.precision), list[tuple[Any, float]]()
        seen = scaled(x.flatten(2, 3), settings.scale)
        for seed in range(args.seeds):
            began = time.process_time()
            both = codes_of(seen, settings, (seed, 0))
            runs.append((both, time.process_time() - began))
        found = [scores_of(both, settings) for both, _ in runs]
        row: dict[str, Any] = {way: judge.all([f[way] for f in found]) for way in WAYS}
        row["cpu_seconds"] = round(float(np.mean([s for _, s in runs])), 1)
        row["codes_per_head"] = round(float(np.mean([_used(both) for both, _ in runs])), 2)
        row["scored"] = {
            n: judge.all([own_scores((a[:, :n], b[:, :n]), settings) for (a, b), _ in runs])
            for n in args.scored
        }
        results["settings"][name] = settings.model_dump() | {"found": row}
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps(row), flush=True)


def _used(both: Any) -> float:
    """Different codes that a head has, on average."""
    return float(np.mean([len(np.unique(codes)) for codes in np.concatenate(both, 1)]))


if __name__ == "__main__":
    main()
