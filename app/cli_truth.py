"""`headscope truth`: which scores of a run predict what its heads' ablation does?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headscope.app.options import Device, Haystack, Json, Run, Scanned
from headscope.app.terminal import check_target, err, guarded, out, quiet, read_haystack, say_json


@guarded
def truth(
    run: Run,
    model: Scanned = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="A further map of the same model whose scores join, gates say; repeat for more."),
    ] = None,
    score: Annotated[
        list[str] | None, typer.Option(help="A score to judge; repeat for more. All without it.")
    ] = None,
    method: Annotated[str, typer.Option(help="How heads are ablated: mean, zero, resample, ...")] = "mean",
    task: Annotated[str, typer.Option(help="A task whose prompts have answers.")] = "needle",
    length: Annotated[int, typer.Option(min=64, help="Length of its prompts in tokens.")] = 1024,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts that the model answers right.")] = 12,
    texts: Annotated[int, typer.Option(min=2, help="Windows of plain text.")] = 8,
    text_length: Annotated[int, typer.Option(min=8, help="Tokens in each.")] = 128,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws behind the intervals.")] = 1000,
    haystack: Haystack = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and draws.")] = 0,
    target: Annotated[Path | None, typer.Option("--out", help="Also write everything as Markdown.")] = None,
    as_json: Json = False,
) -> None:
    """Compare every score of a run with what ablating each head alone does, with intervals.

    Adds ablations.parquet and the columns effect_answer, effect_text, estimate_answer and
    estimate_text to the run. Ablations that are there already are not measured again.

    Examples:

      headscope truth runs/smollm2

      headscope truth runs/smollm2 --beside runs/smollm2-gates --out truth.md

      headscope truth runs/smollm2 --score retrieval --score induction --json
    """
    text = read_haystack(haystack) if haystack else None
    check_target(target)
    quiet()
    from headscope import heads, probes
    from headscope.app import machine
    from headscope.app.progress import counting
    from headscope.app.truth import as_records, markdown, print_truth

    maps = [heads.HeadMap.open(path) for path in beside or ()]
    name = model or heads.HeadMap.open(run).meta.model
    removal = heads.Removal(
        method=method, task=task, length=length, prompts=prompts, texts=texts, text_length=text_length,
        seed=seed,
    )  # fmt: skip
    found = heads.Ablations.known(run, removal, text)
    if found is None:
        with counting(err(), "prompts and texts") as progress:
            loaded = probes.load(name, device=device)
            found = heads.ablate_each(loaded, run, removal, haystack=text, progress=progress)
    headmap = heads.HeadMap.open(run)
    table = heads.truth_table(headmap, found, scores=tuple(score or ()), beside=maps, draws=draws, seed=seed)
    if target:
        page = markdown(table, found.meta, [headmap.rule(role).score for role in headmap.roles])
        probes.write_atomically(target, lambda to: to.write_text(page, "utf-8"))
    if as_json:
        say_json(machine.as_json({"run": run} | machine.described(headmap) | as_records(table, found.meta)))
        return
    print_truth(out(), table, found.meta)
