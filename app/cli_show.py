"""`headscope show`, `compare` and `report`: what earlier scans found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headscope.app.options import Json
from headscope.app.terminal import guarded, out, say_json

if TYPE_CHECKING:
    from headscope.heads import Training

_Run = Annotated[
    Path, typer.Argument(help="A run folder, that of a training's checkpoints, or a .parquet head map.")
]


@guarded
def show(
    run: _Run,
    role: Annotated[
        str | None, typer.Option(help="One role, or any score column; all roles without it.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="How many heads.", show_default="10; 3 of every role")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a head map: what it says about every role, or the top heads of one; a training, step by step.

    Examples:

      headscope show runs/smollm2

      headscope show runs/smollm2 --role retrieval --top 20

      headscope show runs/smollm2 --role entropy --json
    """
    from headscope.app import machine, tables
    from headscope.app.roles import entries, role_of, roles_of
    from headscope.heads import HeadMap, Training

    if Training.there(run):
        _show_training(Training.open(run), role, as_json)
        return
    headmap = HeadMap.open(run)
    k = top or (10 if role or as_json else 3)
    if not as_json and role is None:
        tables.print_map(out(), headmap, k)
    elif not as_json and role is not None:
        out().print(tables.top_table(headmap, role, entries(headmap, role, k)))
    elif role is not None and role not in headmap.roles:
        columns = machine.records(headmap.top(role, k))
        say_json(machine.as_json(machine.described(headmap) | {"score": role, "top": columns}))
    else:
        found = [role_of(headmap, role, k)] if role else roles_of(headmap, k)
        listed: dict[str, Any] = {"roles": {r.name: machine.role(r) for r in found}}
        if not headmap.roles:  # an imported map may know scores only
            listed["scores"] = {c: machine.records(headmap.top(c, k)) for c in headmap.meta.columns}
        say_json(machine.as_json(machine.described(headmap) | listed))


def _show_training(training: Training, role: str | None, as_json: bool) -> None:
    from headscope.app import machine
    from headscope.app.training import as_records, print_score, print_training

    if as_json:
        say_json(machine.as_json(machine.described(training.last) | as_records(training, role)))
    elif role is None:
        print_training(out(), training)
    else:
        print_score(out(), training, role)


@guarded
def compare(
    a: Annotated[Path, typer.Argument(help="A run folder or head map.")],
    b: Annotated[Path, typer.Argument(help="Another one, of a model of the same shape.")],
    as_json: Json = False,
) -> None:
    """Compare two head maps: rank correlations, and the heads whose label changed.

    Examples:

      headscope compare runs/base runs/finetuned

      headscope compare runs/seed0 runs/seed1 --json
    """
    from headscope.app import machine, tables
    from headscope.heads import HeadMap

    left, right = HeadMap.open(a), HeadMap.open(b)
    found = left.compare(right)
    if as_json:
        maps = {"a": machine.described(left), "b": machine.described(right)}
        say_json(machine.as_json(maps | machine.comparison(found)))
        return
    tables.print_comparison(out(), left, right, found)


@guarded
def report(
    run: _Run,
    target: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write.", show_default="report.html in the run"),
    ] = None,
) -> None:
    """Write the report of a run again: one HTML file that needs no network.

    Examples:

      headscope report runs/smollm2

      headscope report runs/smollm2 --out smollm2.html
    """
    from headscope.app.report import write_report

    out().print(str(write_report(run, target)), markup=False)
