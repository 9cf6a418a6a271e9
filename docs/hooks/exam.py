"""What the exam says of a role, out of the committed output of `headscope exam --json`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "benchmarks" / "results" / "exam.json"
_MARKER = re.compile(r"<!-- exam: (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `<!-- exam: role -->` by the role's grades."""
    return _MARKER.sub(lambda found: table(found[1]), markdown)


def table(role: str) -> str:
    """One row per planted model."""
    grades = [g for g in json.loads(FILE.read_text())["grades"] if g["role"] == role]
    if not grades:
        raise ValueError(f"The exam has no role {role!r}.")
    rows = [
        f"| {g['model']} | {g['planted']} | {g['precision']:g} | {g['recall']:g} | {g['margin']:.3f} "
        f"| {g['closest'].replace('_', ' ')} |"
        for g in grades
    ]
    names = "| planted model | heads with the role | precision | recall | margin | closest head |"
    return "\n".join([names, "|---|--:|--:|--:|--:|---|", *rows])
