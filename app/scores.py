"""A map without labels as text: its scores as shades, and the heads that score highest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headscope.app.looks import number, with_error
from headscope.app.roles import entries

if TYPE_CHECKING:
    from headscope.heads import HeadMap

_SHADES = "·░▒▓█"


def print_scores(console: Console, headmap: HeadMap, k: int) -> None:
    """The first score as a map of shades, and one line per score: its range, its best heads."""
    first = next(iter(headmap.meta.columns))
    console.print(shade_map(headmap, first, console.width))
    title = f"{headmap.meta.model}: {len(headmap.frame)} heads, no labels; the map shows {first}"
    table = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("score", "lowest", "median", "highest", "best"):
        table.add_column(name, justify="right" if name in ("lowest", "median", "highest") else "left")
    for column in headmap.meta.columns:
        values = headmap.frame[column]
        best = "\n".join(f"{e.name} {with_error(e.score, e.error)}" for e in entries(headmap, column, k))
        spread = (float(x) for x in (values.min(), values.median(), values.max()))
        table.add_row(*map(Text, (column, *(number(x) for x in spread), best or "–")))
    console.print(table)


def shade_map(headmap: HeadMap, column: str, width: int) -> Text:
    """One shade per head, from the lowest score to the highest; layers from left to right, wrapped."""
    grid = headmap.grid(column).to_numpy(float).T  # heads x layers
    low, high = float(np.nanmin(grid, initial=0.0)), float(np.nanmax(grid, initial=0.0))
    share = np.nan_to_num((grid - low) / ((high - low) or 1.0))
    level = np.minimum((share * len(_SHADES)).astype(int), len(_SHADES) - 1)
    room = max(width - 6, 20)
    text = Text()
    for start in range(0, grid.shape[1], room):
        layers = range(start, min(start + room, grid.shape[1]))
        text.append(f"{ruler(layers)}\n", "dim")
        for head, row in enumerate(level[:, layers.start : layers.stop]):
            text.append(f"{head:>4}  ", "dim")
            text.append("".join(_SHADES[i] for i in row) + "\n")
    return text


def ruler(layers: range) -> str:
    """Every fifth layer's number, above the columns of a map."""
    marks = [" "] * (len(layers) + 3)
    for i, layer in enumerate(layers):
        if layer % 5 == 0:
            marks[i : i + len(str(layer))] = str(layer)
    return "layer " + "".join(marks).rstrip()
