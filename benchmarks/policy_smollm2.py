"""Which ranking keeps most of the default model's needle accuracy, and the certificate of the best.

    python benchmarks/policy_smollm2.py runs/smollm2 --out benchmarks/results/policy_smollm2

Ranks the KV groups of a scanned run by what streaming costs the answer, sweeps that ranking against the
scan's cut errors, the trained gates of gates_smollm2.json, retrieval scores, RazorAttention and random
groups, all at 4,096 tokens, and verifies the policy at half of the KV bytes. Takes about five
minutes on an H100, hours on two CPU cores. Writes sweep.parquet, sweep.json and policy.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from headscope.heads import Check, ColumnInfo, Grid, HeadMap, Window, attribute, sweep, verify
from headscope.probes import load

GATES = Path(__file__).parent / "results" / "gates_smollm2.json"
WINDOWS = ["16+496", "64+256"]


def with_gates(headmap: HeadMap) -> HeadMap:
    """The map with the trained gates as a column."""
    gates = np.asarray(json.loads(GATES.read_text())["gates"], float)
    frame = headmap.frame
    size = headmap.meta.geometry.group_size
    frame["gate"] = gates[frame["layer"].to_numpy(), frame["head"].to_numpy() // size]
    info = ColumnInfo(about="DuoAttention's gate, see gates_smollm2.json", high=None)
    meta = headmap.meta.model_copy(update={"columns": headmap.meta.columns | {"gate": info}})
    return HeadMap(frame, meta, headmap.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--windows", nargs="+", default=WINDOWS, help="sink+recent; the first is verified")
    asked = parser.parse_args()
    windows = [Window(sink=int(s), recent=int(r)) for s, r in (w.split("+") for w in asked.windows)]
    asked.out.mkdir(parents=True, exist_ok=True)
    model = load(asked.model, dtype="float32")
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(asked.run / "headmap.parquet", scratch)
        for window in windows:
            headmap = attribute(model, scratch, window, lengths=(1024, 2048, asked.length), prompts=18)
    headmap = with_gates(headmap)
    headmap.save(asked.out / "headmap.parquet")
    found = {}
    for window in windows:
        grid = Grid(
            by=("loss", "error", "gate", "retrieval", "razor", "random"), length=asked.length,
            prompts=asked.prompts, sink=window.sink, recent=window.recent,
        )  # fmt: skip
        swept = sweep(model, headmap, grid)
        name = f"{window.sink}+{window.recent}"
        ways = {by: {"enough": swept.enough(by), "knee": swept.knee(by)} for by in grid.by or ()}
        found[name] = {"meta": swept.meta.model_dump(mode="json"), "ways": ways}
        found[name]["points"] = swept.points.to_dict("records")
        (asked.out / "sweep.json").write_text(json.dumps(found, indent=1) + "\n")
        print(name, swept.points.to_string(), ways, flush=True)
    best = headmap.policy(kv_budget=0.5, context=asked.length, sink=windows[0].sink, recent=windows[0].recent)
    check = Check(lengths=(1024, 2048, asked.length), per_length=asked.prompts, texts=8)
    verify(model, best, check).save(asked.out / "policy.json")


if __name__ == "__main__":
    main()
