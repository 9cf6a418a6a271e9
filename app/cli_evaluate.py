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
    """
    quiet()
    from headscope import heads, probes
    from headscope.app import machine
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
    console.print(
        "hallucination: share of the kinds named that are absent or in another colour; captions: share with "
        "any; change: relative to the first row, paired; 95% bootstrap intervals over "
        f"{scenes * seeds} pictures of {seeds} seeds.",
        markup=False,
    )


def _tell(progress: Callable[[int, int], None], before: int, total: int, count: int) -> None:
    progress(before + count, total)


def _captions(world: str, found: pd.DataFrame) -> Table:
    from headscope.app.tables import plain_table

    table = plain_table(
        f"Captions of {world} scenes",
        *("", "hallucination", "95%", "change", "95%", "captions", "recall", "words"),
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for i, row in found.iterrows():
        table.add_row(
            str(row["arm"]), f"{row['hallucination']:.1%}", _range(row, "hallucination", ".1%"),
            f"{row['hallucination_change']:+.1%}" if i else "",
            _range(row, "hallucination_change", "+.1%") if i else "", f"{row['captions']:.1%}",
            f"{row['recall']:.1%}", f"{row['words']:.1f}",
        )  # fmt: skip
    return table


def _range(row: pd.Series, name: str, form: str) -> str:
    return f"{row[f'{name}_low']:{form}} … {row[f'{name}_high']:{form}}"


def _questions(world: str, found: pd.DataFrame) -> Table:
    from headscope.app.tables import plain_table

    table = plain_table(
        f"Questions about {world} scenes", *("", "kind", "right", "95%", "precision", "recall", "F1", "yes")
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for _, row in found.iterrows():
        graded = row["f1"] == row["f1"]  # NaN where the answer is not yes or no
        more = [f"{row[c]:.0%}" if graded else "" for c in ("precision", "recall", "f1", "yes_rate")]
        table.add_row(
            str(row["arm"]), str(row["kind"]), f"{row['accuracy']:.1%}", _range(row, "accuracy", ".0%"), *more
        )
    return table
