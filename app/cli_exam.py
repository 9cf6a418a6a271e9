"""`headscope exam`: the detectors on models whose heads are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headscope.app.options import Json
from headscope.app.terminal import guarded, out, quiet, say_json

if TYPE_CHECKING:
    from rich.table import Table

    from headscope.heads import Examination


@guarded
def exam(
    model: Annotated[list[str] | None, typer.Argument(help="Planted models.", show_default="all")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write the models to this folder, and grade them from there.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and row samples.")] = 0,
    as_json: Json = False,
) -> None:
    """Grade every detector on models whose heads were set by hand.

    Exits with 1 unless precision and recall of every role are 1 in every model.

    Examples:

      headscope exam

      headscope exam planted-gpt2 --json

      headscope exam --write planted
    """
    quiet()
    from headscope import heads

    found = heads.examine(model or (), write=write, seed=seed)
    if as_json:
        say_json(found.model_dump_json(indent=2))
    else:
        _print(found, write)
    raise typer.Exit(0 if found.passed else 1)


def _print(found: Examination, write: Path | None) -> None:
    console = out()
    console.print(_table(found))
    for grade in found.grades:
        for word, names in (("missed", grade.missed), ("invented", grade.invented)):
            if names:
                console.print(f"{grade.model}, {grade.role}: {word} {', '.join(names)}", markup=False)
    if found.ungraded:
        console.print(f"No planted head has the role: {', '.join(found.ungraded)}", markup=False)
    for name, tasks in found.answered.items():
        right = ", ".join(f"{task} {share:.0%}" for task, share in tasks.items())
        console.print(f"{name} answered right: {right}", markup=False)
    console.print("Passed." if found.passed else "Failed.", markup=False)
    if write:
        console.print(f"\nModels    {write}", markup=False)


def _table(found: Examination) -> Table:
    from rich.text import Text

    from headscope.app.looks import number, title
    from headscope.app.tables import plain_table

    columns = ("model", "role", "planted", "precision", "recall", "margin", "closest head")
    table = plain_table("Detectors on planted heads", *columns)
    for i in range(2, 6):
        table.columns[i].justify = "right"
    for g in found.grades:
        margin = "–" if g.margin is None else number(g.margin)
        cells = (g.model, title(g.role), str(g.planted), number(g.precision), number(g.recall), margin)
        table.add_row(*map(Text, (*cells, g.closest)), style="" if g.passed else "red")
    return table
