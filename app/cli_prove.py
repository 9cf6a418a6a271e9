"""`headscope prove`: are the roles of a run causes?"""

from __future__ import annotations

from typing import Annotated

import typer

from headscope.app.options import Device, Haystack, Json, Run, Scanned
from headscope.app.terminal import err, guarded, out, quiet, read_haystack, say_json


@guarded
def prove(
    run: Run,
    model: Scanned = None,
    role: Annotated[
        list[str] | None, typer.Option(help="A role to test; repeat for more. All without it.")
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option("--k", min=1, help="How many heads to ablate; repeat.", show_default="1 2 5 10 20"),
    ] = None,
    method: Annotated[str, typer.Option(help="mean, zero, resample or uniform.")] = "mean",
    everywhere: Annotated[
        bool,
        typer.Option("--everywhere", help="Ablate in every row, not only while the answer is written; slow."),
    ] = False,
    task: Annotated[str, typer.Option(help="A task whose prompts have answers.")] = "needle",
    length: Annotated[int, typer.Option(min=64, help="Length of the prompts in tokens.")] = 2048,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts that the model answers right.")] = 10,
    draws: Annotated[int, typer.Option(min=1, help="Random head sets for every set.")] = 3,
    haystack: Haystack = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and random heads.")] = 0,
    as_json: Json = False,
) -> None:
    """Test a run's roles by ablation, against random heads of the same layers.

    Adds causal.parquet and the column `causal` to the run, and writes its report again. Other roles of an
    earlier test stay if its settings are the same; a test of other settings is replaced.

    Examples:

      headscope prove runs/smollm2

      headscope prove runs/smollm2 --role retrieval --k 5 --k 10 --prompts 6

      headscope prove runs/smollm2 --role retrieval --k 10 --everywhere --json
    """
    text = read_haystack(haystack) if haystack else None
    quiet()
    from headscope import heads, probes
    from headscope.app import machine
    from headscope.app.progress import counting
    from headscope.app.report import write_report
    from headscope.app.tables_causal import print_proof

    headmap = heads.HeadMap.open(run)
    standard = heads.Trial()
    trial = heads.Trial(
        roles=tuple(role or ()), ks=tuple(sorted(set(k or standard.ks))), method=method,
        positions="all" if everywhere else "generated", task=task, length=length, prompts=prompts,
        draws=draws, seed=seed, head_length=min(length, standard.head_length),
        head_prompts=min(prompts, standard.head_prompts),
    )  # fmt: skip
    heads.head_sets(headmap, trial)  # what is misspelt is found out before the model loads
    loaded = probes.load(model or headmap.meta.model, device=device)
    with counting(err(), "prompts") as progress:
        proof = heads.prove(loaded, run, trial, haystack=text, progress=progress)
    page = write_report(run)
    if as_json:
        found = {"run": run, "report": page, "meta": proof.meta.model_dump(mode="json")}
        say_json(machine.as_json(found | {"curves": machine.records(proof.curves)}))
        return
    print_proof(out(), heads.HeadMap.open(run), proof)
    out().print(f"\nReport    {page}", markup=False)
