"""Two truth tables: how many numbers of the second lie inside the intervals of the first.

    headscope scan smollm2 --seed 1 --out runs/smollm2-seed1
    headscope truth runs/smollm2-seed1 --seed 1 --json > again.json
    python benchmarks/truth_again.py benchmarks/results/truth_smollm2.json again.json

Scores that only one of them has are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MEASURES = ("spearman", "overlap", "auc")


def compared(first: dict[str, Any], second: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every number that both have: `table`, `measure`, `row`, `low`, `value`, `high`, and `again`."""
    for part, names in (
        ("ceiling", ("effect", "score")),
        ("against", ("effect", "score")),
        ("between", ("a", "b")),
    ):
        there = {tuple(row[n] for n in names): row for row in second[part]}
        for row in first[part]:
            key = tuple(row[n] for n in names)
            for measure in MEASURES if key in there else ():
                if measure in row:
                    table = f"{part} {row['effect']}" if part != "between" else part
                    yield {
                        "table": table, "measure": measure, "row": ", ".join(key),
                        "low": row[f"{measure}_low"], "value": row[measure], "high": row[f"{measure}_high"],
                        "again": there[key][measure],
                    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    args = parser.parse_args()
    numbers = list(compared(*(json.loads(path.read_text()) for path in (args.first, args.second))))
    outside = [n for n in numbers if not n["low"] <= n["again"] <= n["high"]]
    counts = Table("table", "measure", "inside", "of", box=None)
    for table, measure in dict.fromkeys((n["table"], n["measure"]) for n in numbers):
        mine, missed = (
            sum(n["table"] == table and n["measure"] == measure for n in some) for some in (numbers, outside)
        )
        counts.add_row(table, measure, str(mine - missed), str(mine))
    console = Console(width=110)
    console.print(counts)
    for n in outside:
        interval = f"{n['value']:.2f} ({n['low']:.2f} … {n['high']:.2f})"
        console.print(f"{n['table']}, {n['row']}, {n['measure']}: {interval}, then {n['again']:.2f}")


if __name__ == "__main__":
    main()
