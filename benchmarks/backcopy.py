"""The Bigram-Backcopy models against the theory of Guo et al. 2024, checkpoint by checkpoint.

python benchmarks/backcopy.py --out benchmarks/results/backcopy.json
python benchmarks/backcopy.py --models ./my-training --attention relu
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from headscope.probes import checkpoints, load
from headscope.probes.toys.bigram_backcopy import relu_weights, softmax_weights, world
from headscope.sinks import read_backcopy

WEIGHTS = {"softmax": softmax_weights, "relu": relu_weights}
RELU = Path(__file__).parents[1] / "probes" / "toys" / "weights" / "bigram-backcopy-relu"
SHOWN = ("sink_mass", "sink_mass_trigger", "copy_mass", "sink_logit", "drain", "peak")


def measured(models: str, attention: str, texts: int, seed: int) -> list[dict[str, Any]]:
    """One row per checkpoint and layer, everything as `read_backcopy` gives it, and two ratios."""
    here, rows = world(), []
    for checkpoint in checkpoints([models]):
        found = read_backcopy(
            load(checkpoint.source), weights=WEIGHTS[attention], here=here, texts=texts, seed=seed
        )
        risks: dict[str, float] = {}
        for name, risk in (("backcopy_risk", found.backcopy_risk), ("bigram_risk", found.bigram_risk)):
            risks |= {name: float(risk.value[0]), f"{name}_se": float(risk.se[0])}
        for row in found.layers.to_dict("records"):
            ratios = {
                "drain": row["value_sink"] / row["value_others"],
                "peak": row["residual_sink"] / row["residual_others"],
            }
            rows.append({"attention": attention, "step": checkpoint.step} | row | ratios | risks)
    return rows


def growth(rows: list[dict[str, Any]], first: int = 50, last: int = 3200) -> dict[str, float]:
    """The line through the sink's logit over the logarithm of the step."""
    kept = [r for r in rows if first <= r["step"] <= last and r["layer"] == 0]
    x, y = np.log([r["step"] for r in kept]), np.array([r["sink_logit"] for r in kept])
    slope, start = np.polyfit(x, y, 1)
    left = ((y - slope * x - start) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return {"first": first, "last": last, "per_e_fold": float(slope), "r2": float(1 - left)}


def show(rows: list[dict[str, Any]]) -> None:
    """The table, with standard errors where there are some."""
    table = Table("attention", "step", "layer", *SHOWN, "backcopy risk", "bigram risk", box=None)
    for r in rows:
        cells = [
            f"{r[n]:.3f}" + (f" ± {r[f'{n}_se']:.3f}" if f"{n}_se" in r else "")
            for n in (*SHOWN, "backcopy_risk", "bigram_risk")
        ]
        table.add_row(r["attention"], str(r["step"]), str(int(r["layer"])), *cells)
    Console(width=200).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", help="a folder of checkpoints; the shipped models without it")
    parser.add_argument("--attention", choices=sorted(WEIGHTS), default="softmax")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.models:
        rows = measured(args.models, args.attention, args.texts, args.seed)
    else:
        rows = measured("bigram-backcopy", "softmax", args.texts, args.seed)
        rows += measured(str(RELU), "relu", args.texts, args.seed)
    show(rows)
    found = growth([r for r in rows if r["attention"] == "softmax"]) if not args.models else None
    if found:
        print(f"sink logit: {found['per_e_fold']:.2f} per factor e of the step, R2 {found['r2']:.3f}")
    if args.out:
        command = f"python {shlex.join(['benchmarks/backcopy.py', *sys.argv[1:]])}"
        content = {"command": command, "texts": args.texts, "seed": args.seed, "growth": found, "rows": rows}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
