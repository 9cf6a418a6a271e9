"""Whether the heads of `smollm2` keep their side across relations and formats of conflict.

python benchmarks/ph3_kinds.py --out benchmarks/results/ph3_kinds_smollm2.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from headscope.heads import Conflicts, Importance, by_kind
from headscope.probes import load


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--facts", type=int, default=160, help="facts to ask closed-book")
    parser.add_argument("--heads", type=int, default=6, help="heads of either side to test")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.process_time()
    model = load(args.model)
    data = Conflicts.known(model, args.facts, args.seed)
    importance = Importance.of(model, data.conflict)
    heads = [*importance.ranked("memory")[: args.heads], *importance.ranked("context")[: args.heads]]
    results: dict[str, Any] = {
        "command": "python benchmarks/ph3_kinds.py " + " ".join(sys.argv[1:]),
        "model": args.model, "fingerprint": model.fingerprint, "seed": args.seed,
        "prompts": len(data), "heads": [str(h) for h in heads],
    }  # fmt: skip
    for key in ("relation", "format"):
        found = by_kind(importance, data.labels(key), heads)
        table = found.heads.round({"balance": 3, "se": 3})
        results[key] = {
            "kinds": found.kinds,
            "correlation_of_all_heads": found.correlation.round(3).tolist(),
            "swapped": found.swapped(),
            "balance": json.loads(table.to_json(orient="records")),
        }
        print(key, results[key]["correlation_of_all_heads"], results[key]["swapped"])
        print(table.pivot(index="head", columns="kind", values="balance").to_string(), flush=True)
    results["cpu_seconds"] = round(time.process_time() - began)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
