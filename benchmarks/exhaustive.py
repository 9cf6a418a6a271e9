"""Methods against the whole truth: two small trained models, of which every set of heads is ablated.

    python benchmarks/exhaustive.py --out benchmarks/results/exhaustive_repeats.json

The models continue what repeats (`probes/toys/train_repeats.py`): two layers of four heads, so that 256
sets decide which heads the task needs. Circuits are found on some prompts, the sets are tried on
others. The truth of a method is the smallest set with f of at least .9; where several are as small, the
one that keeps most. Beside the AUC against it stand what the method's own set of that size keeps, and
the correlation of its scores with the heads' Shapley values.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from circuits import SCORED, found_with, provenance

from headscope.probes import Exhaustive, Pairs, exhaustive, load, repeats_prompts, roc_auc, trials
from headscope.probes.circuits.method import ABLATIONS
from headscope.probes.files import write_atomically

MODELS = ("repeats", "repeats-1")
GRADIENTS = (*SCORED, "pruning")
METHODS = ("patching", *GRADIENTS, "difference", "layer", "random")
FAITHFUL = 0.9


def graded(model: Any, learn: Pairs, method: str, truth: Exhaustive, draws: int) -> dict[str, Any]:
    """How near a method comes to the truth; the mean over draws of the random baseline."""
    heads, values = truth.minimal(FAITHFUL)[0], truth.shapley().ravel()
    found = [found_with(model, learn, method, seed) for seed in range(draws)]
    return {
        "method": method, "draws": draws,
        "auc": round(float(np.mean([roc_auc(c, heads) for c in found])), 4),
        "f": round(float(np.mean([truth.f[truth.at(c.top(len(heads)))] for c in found])), 4),
        "pearson_shapley": round(
            float(np.mean([np.corrcoef(c.heads()["score"], values)[0, 1] for c in found])), 4
        ),
        "scores": found[0].heads()["score"].round(4).tolist(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--learn", type=int, default=64, help="prompts to find circuits on")
    parser.add_argument("--held", type=int, default=64, help="other prompts to try all sets on")
    parser.add_argument("--draws", type=int, default=100, help="of the random baseline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results: dict[str, Any] = {"seed": args.seed, "faithful": FAITHFUL, "models": {}}
    for name in MODELS:
        model = load(name, dtype="float32")
        results |= provenance(model, args.out)
        asked = Pairs.given("repeats", repeats_prompts(args.learn + args.held, args.seed))
        learn, held = asked.split(args.learn)
        found: dict[str, Any] = {
            "fingerprint": model.fingerprint, "right": float(trials(model, held.prompts).right.mean())
        }  # fmt: skip
        results["models"][name] = found
        for ablation in ABLATIONS:
            truth = exhaustive(model, held.prompts, ablation=ablation)
            sets = truth.minimal(FAITHFUL)
            towards = [f"{m}@{ablation}" for m in GRADIENTS if ablation != "counterfactual"]
            found[ablation] = {
                "whole": round(float(truth.kept[-1]), 4), "nothing": round(float(truth.kept[0]), 4),
                "minimal": [
                    {"heads": list(map(str, s)), "f": round(float(truth.f[truth.at(s)]), 4)} for s in sets
                ],
                "shapley": truth.shapley().round(4).tolist(),
                "methods": [
                    graded(model, learn, m, truth, args.draws if m == "random" else 1)
                    for m in (*METHODS, *towards)
                ],
            }  # fmt: skip
            text = json.dumps(results, indent=1) + "\n"
            write_atomically(args.out, lambda file, text=text: file.write_text(text))
            print(name, ablation, [r["heads"] for r in found[ablation]["minimal"]], flush=True)
            for row in found[ablation]["methods"]:
                print("  ", row["method"], row["auc"], row["f"], row["pearson_shapley"], flush=True)


if __name__ == "__main__":
    main()
