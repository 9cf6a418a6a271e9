"""`headscope sweep`: quality against retained KV."""

from __future__ import annotations

from typing import Annotated

import typer

from headscope.app.options import Device, Dtype, Haystack, Json, Run, Scanned
from headscope.app.terminal import err, guarded, out, quiet, read_haystack, say_json


@guarded
def sweep(
    run: Run,
    model: Scanned = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="A ranking or score; repeat.", show_default="the best, error, retrieval, random"),
    ] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option(help="Share of the KV bytes; repeat.", show_default="0.2 0.3 0.4 0.5 0.6 0.8"),
    ] = None,
    task: Annotated[str, typer.Option(help="A task with answers.")] = "needle",
    length: Annotated[int, typer.Option(min=64, help="Length of the prompts in tokens.")] = 2048,
    prompts: Annotated[int, typer.Option(min=2, help="How many.")] = 12,
    draws: Annotated[int, typer.Option(min=1, help="Sets of random KV groups.")] = 3,
    sink: Annotated[int | None, typer.Option(help="First keys that streaming groups keep.")] = None,
    recent: Annotated[int | None, typer.Option(help="Recent keys they keep.")] = None,
    haystack: Haystack = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the prompts.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw quality against retained KV for several ways to choose, with random KV groups as control.

    Adds sweep.parquet to the run, and writes its report again.

    Examples:

      headscope sweep runs/smollm2

      headscope sweep runs/smollm2 --by loss --by random --budget 0.3 --budget 0.5 --length 4096
    """
    text = read_haystack(haystack) if haystack else None
    quiet()
    from headscope import heads, probes
    from headscope.app import machine
    from headscope.app.progress import counting
    from headscope.app.report import write_report
    from headscope.app.tables_policy import print_sweep

    headmap, standard = heads.HeadMap.open(run), heads.Grid()
    grid = heads.Grid(
        by=tuple(by) if by else None, budgets=tuple(sorted(set(budget or standard.budgets))), draws=draws,
        task=task, length=length, prompts=prompts, sink=sink, recent=recent, seed=seed,
    )  # fmt: skip
    probes.TASKS[task]
    heads.sweep_policies(headmap, grid)  # what cannot be chosen is found out before the model loads
    loaded = probes.load(model or headmap.meta.model, device=device, dtype=dtype)
    with counting(err(), "prompts") as progress:
        found = heads.sweep(loaded, headmap, grid, haystack=text, progress=progress)
    found.save(run)
    page = write_report(run)
    if as_json:
        made = {"run": run, "report": page, "meta": found.meta.model_dump(mode="json")}
        say_json(machine.as_json(made | {"points": machine.records(found.points)}))
        return
    print_sweep(out(), found)
    out().print(f"\nReport    {page}", markup=False)
