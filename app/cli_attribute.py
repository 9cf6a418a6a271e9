"""`headscope attribute`: what streaming a KV group costs the answer."""

from __future__ import annotations

from typing import Annotated

import typer

from headscope.app.options import Device, Dtype, Haystack, Json, Run, Scanned
from headscope.app.terminal import err, guarded, out, quiet, read_haystack, say_json


@guarded
def attribute(
    run: Run,
    model: Scanned = None,
    sink: Annotated[int, typer.Option(min=0, help="First keys that a streaming group keeps.")] = 16,
    recent: Annotated[int, typer.Option(min=1, help="Recent keys that it keeps.")] = 496,
    task: Annotated[
        list[str] | None, typer.Option(help="A task with answers; repeat.", show_default="needle")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="Prompt length; repeat.", show_default="1024 2048")
    ] = None,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts that the model answers right.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Points on the path of each prompt.")] = 5,
    haystack: Haystack = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the prompts.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure what it costs the answer when a KV group streams; policies then rank by it.

    Integrated gradients: a few forward and backward passes a prompt. Adds a column to the run.

    Examples:

      headscope attribute runs/smollm2

      headscope attribute runs/smollm2 --sink 64 --recent 256 --length 4096 --prompts 16
    """
    text = read_haystack(haystack) if haystack else None
    quiet()
    from headscope import heads, probes
    from headscope.app import machine, tables
    from headscope.app.progress import counting
    from headscope.app.roles import entries

    window = heads.Window(sink=sink, recent=recent)
    loaded = probes.load(model or heads.HeadMap.open(run).meta.model, device=device, dtype=dtype)
    with counting(err(), "prompts") as progress:
        made = heads.attribute(
            loaded, run, window, tasks=task or ("needle",), lengths=length or (1024, 2048), prompts=prompts,
            steps=steps, seed=seed, haystack=text, progress=progress,
        )  # fmt: skip
    column = heads.loss_column(window)
    if as_json:
        say_json(machine.as_json({"run": run, "score": column, "top": machine.records(made.top(column, 10))}))
        return
    out().print(tables.top_table(made, column, entries(made, column, 10)))
    out().print(f"\nChoose    headscope policy choose {run} --kv-budget 0.5 --out policy.json", markup=False)
