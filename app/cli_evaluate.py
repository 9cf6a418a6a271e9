"""`headscope evaluate`: what a model says of pictures whose truth is known, with and without changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headscope.app.options import Device, Json
from headscope.app.terminal import err, guarded, out, quiet, say_json

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

_HELD_OUT = 9_000  # added to seeds: scenes that neither training nor the project's own search has seen


@guarded
def evaluate(
    model: Annotated[str, typer.Argument(help="A vision-language model that knows the scenes: shapes.")],
    spec: Annotated[
        list[Path] | None, typer.Option("--with", help="A spec of headscope intervene; repeat.")
    ] = None,
    world: Annotated[
        list[str] | None,
        typer.Option(help="neutral, usual or breaking (against the habits); repeat.", show_default="all"),
    ] = None,
    scenes: Annotated[int, typer.Option(min=2, help="Scenes of each seed.")] = 32,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 2,
    questions: Annotated[bool, typer.Option(help="Ask questions too.")] = True,
    draws: Annotated[int, typer.Option(min=0, help="Random head sets to compare with.")] = 1,
    strength: Annotated[
        list[float] | None, typer.Option(help="A further strength to try every spec at; repeat.")
    ] = None,
    opera: Annotated[bool, typer.Option(help="Also beam search, without and with OPERA (slow).")] = False,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    as_json: Json = False,
) -> None:
    """Captions and questions about drawn scenes: hallucination, recall, length, POPE.

    Without --with, how well the model does. With it, beside the untouched model: every spec, all
    together, the opposite change, and random heads.

    Examples:

      headscope evaluate shapes --scenes 16 --seeds 1

      headscope intervene vhr shapes --task scenes --positions generated --out vhr.json

      headscope evaluate shapes --with vhr.json --world breaking --strength 0.5

    In a run folder, what --json prints is shown by the dashboard.
    """
    quiet()
    from headscope import heads, probes
    from headscope.app import machine, tables_evaluate
    from headscope.app.progress import counting

    worlds = list(dict.fromkeys(world or probes.WORLDS))
    for name in worlds:
        if name not in probes.WORLDS:
            raise probes.unknown("world", name, probes.WORLDS)
    specs = [probes.Spec.open(path) for path in spec or ()]
    loaded = probes.load(model, device=device)
    heads.check_knows(loaded)
    for one in specs:
        one.check(loaded)
    arms = heads.arms_of(loaded, specs, draws=draws, strengths=strength or (), seed=seed)
    writers = {name: [heads.under(*v) for v in variants] for name, variants in arms.items()}
    if opera:
        writers |= {"beams": [heads.searching()], "OPERA": [heads.searching(alpha=1.0)]}
    tables: dict[str, dict[str, pd.DataFrame]] = {}
    total = len(worlds) * scenes * seeds * sum(map(len, writers.values()))
    with counting(err(), "captions") as progress:
        for i, name in enumerate(worlds):
            told = partial(_tell, progress, i * total // len(worlds), total)
            shown = heads.galleries_of(name, scenes, [_HELD_OUT + seed * 100 + s for s in range(seeds)])
            said = heads.captions(loaded, writers, shown, seed, told)
            tables[name] = {"captions": said}
            if questions:
                tables[name]["questions"] = heads.answered(loaded, arms, shown)
    if as_json:
        asked = {"model": loaded.name, "fingerprint": loaded.fingerprint, "scenes": scenes, "seeds": seeds}
        found = {w: {k: machine.records(t) for k, t in two.items()} for w, two in tables.items()}
        say_json(machine.as_json(asked | {"seed": seed, "specs": [str(p) for p in spec or ()]} | found))
        return
    console = out()
    for name, two in tables.items():
        console.print(_captions(name, two["captions"]))
        if "questions" in two:
            console.print(_questions(name, two["questions"]))
    console.print(tables_evaluate.about(scenes * seeds, seeds), markup=False)


def _tell(progress: Callable[[int, int], None], before: int, total: int, count: int) -> None:
    progress(before + count, total)


def _captions(world: str, found: pd.DataFrame) -> Table:
    from headscope.app.tables import plain_table
    from headscope.app.tables_evaluate import CAPTION_HEADERS, caption_cells

    table = plain_table(f"Captions of {world} scenes", *CAPTION_HEADERS, fixed=1)
    for column in table.columns[1:]:
        column.justify = "right"
    for i, row in enumerate(found.to_dict("records")):
        table.add_row(*caption_cells(row, first=not i))
    return table


def _questions(world: str, found: pd.DataFrame) -> Table:
    from headscope.app.tables import plain_table
    from headscope.app.tables_evaluate import QUESTION_HEADERS, question_cells

    table = plain_table(f"Questions about {world} scenes", *QUESTION_HEADERS, fixed=1)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in found.to_dict("records"):
        table.add_row(*question_cells(row))
    return table
