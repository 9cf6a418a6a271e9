"""How far trained gates and the training-free error of cutting a KV group agree, on one model.

    headscope scan smollm2 --out runs/smollm2
    headscope gates smollm2 --steps 200 --shortest 640 --length 1280 --dtype bfloat16 \\
        --out runs/smollm2-gates
    python benchmarks/gates_agreement.py runs/smollm2-gates runs/smollm2 \\
        --out benchmarks/results/gates_smollm2.json

Spearman's rank correlation over KV groups between the gate and each score of the scan, with a
percentile interval from resampling the groups, and the share of groups that both keep when each
keeps a quarter or half of them (two random rankings would share a quarter, or half).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from headscope.heads import HeadMap

SCORES = ("group_cut_error", "group_cut_error_answer", "cut_error", "cut_error_answer", "retrieval")
SHARES = (0.25, 0.5)


def per_group(headmap: HeadMap, column: str) -> NDArray[np.float64]:
    """The highest score of each KV group. [L * Hkv]"""
    return headmap.frame.groupby(["layer", "kv_head"])[column].max().to_numpy(np.float64)


def interval(a: NDArray[Any], b: NDArray[Any], draws: int, rng: np.random.Generator) -> list[float]:
    """The central 95% of the rank correlation over resampled groups."""
    picks = rng.integers(0, len(a), (draws, len(a)))
    found = [stats.spearmanr(a[pick], b[pick]).statistic for pick in picks]
    return [float(x) for x in np.quantile(found, [0.025, 0.975])]


def agreement(gates: HeadMap, scan: HeadMap, draws: int, seed: int) -> list[dict[str, Any]]:
    """One entry per score of the scan."""
    gate, rng = per_group(gates, "gate"), np.random.default_rng(seed)
    out = []
    for column in SCORES:
        score = per_group(scan, column)
        kept = {}
        for share in SHARES:
            k = round(share * len(gate))
            best = [set(np.argsort(-x, kind="stable")[:k].tolist()) for x in (gate, score)]
            kept[str(share)] = len(best[0] & best[1]) / k
        out.append({
            "score": column, "spearman": float(stats.spearmanr(gate, score).statistic),
            "interval95": interval(gate, score, draws, rng), "kept_by_both": kept,
        })  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("gates", type=Path, help="run folder of headscope gates")
    parser.add_argument("scan", type=Path, help="run folder of a scan of the same model")
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    gates, scan = HeadMap.open(asked.gates), HeadMap.open(asked.scan)
    if gates.meta.fingerprint != scan.meta.fingerprint:
        sys.exit("The two maps are of different weights.")
    manifest = json.loads((asked.gates / "manifest.json").read_text())
    observed = json.loads((asked.scan / "manifest.json").read_text())["plan"]
    curve = pd.read_parquet(asked.gates / "curve.parquet")
    found = agreement(gates, scan, asked.draws, asked.seed)
    g, last = gates.meta.geometry, curve.tail(max(1, len(curve) // 10))
    result = {
        "command": "python " + shlex.join(sys.argv),
        "training": {k: v for k, v in manifest["plan"].items() if k != "geometry"},
        "seconds": manifest["seconds"], "device": manifest["device"], "versions": manifest["versions"],
        "scan": {"preset": scan.meta.preset, "context": scan.meta.context, "seed": scan.meta.seed},
        "windows": {
            "gates": [manifest["plan"][n] for n in ("sink", "recent")],
            "scan": observed["recipe"]["watch"]["keep"],
        },
        "groups": g.layers * g.kv_heads, "draws": asked.draws, "seed": asked.seed,
        "agreement": found,
        "last_tenth": {"loss": float(last["loss"].mean()), "mean_gate": float(last["mean_gate"].mean())},
        "gates": per_group(gates, "gate").reshape(g.layers, g.kv_heads).round(6).tolist(),
    }  # fmt: skip
    table = Table("score", "Spearman", "95%", *(f"kept by both at {s:.0%}" for s in SHARES))
    for entry in found:
        low, high = entry["interval95"]
        shares = (f"{entry['kept_by_both'][str(s)]:.0%}" for s in SHARES)
        table.add_row(entry["score"], f"{entry['spearman']:.2f}", f"{low:.2f} to {high:.2f}", *shares)
    Console().print(table)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
