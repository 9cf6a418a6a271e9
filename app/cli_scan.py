"""`headscope scan`: the main job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headscope.app.announce import announce
from headscope.app.options import Device, Dtype, Haystack, Json
from headscope.app.terminal import err, guarded, out, quiet, read_haystack, say_json, speaks

if TYPE_CHECKING:
    from headscope.heads import HeadMap, Training

_EXAMPLES = """
Examples:

  headscope scan smollm2 --preset quick

  headscope scan Qwen/Qwen3-0.6B --context 8192 --out runs/qwen

  headscope scan ./my-model --haystack notes.txt --seed 1 --json

  headscope scan bigram-backcopy --checkpoints --preset backcopy

  headscope scan ./training/step-* --checkpoints --preset quick

  torchrun --nproc-per-node 8 -m headscope.app scan ./my-model --preset thorough

A scan that was stopped goes on where it was when the same command runs again.
"""


@guarded
def scan(
    model: Annotated[
        list[str],
        typer.Argument(
            help="smollm2, a hub id (org/name), a folder, or a .gguf file; with --checkpoints also several, "
            "or a folder of them.",
            show_default=False,
        ),
    ],
    preset: Annotated[
        str, typer.Option(help="quick, standard, thorough, or backcopy (for the model of that task).")
    ] = "standard",
    checkpoints: Annotated[
        bool,
        typer.Option(
            "--checkpoints", help="Scan every checkpoint of a training, and draw scores over steps."
        ),
    ] = False,
    context: Annotated[
        int | None, typer.Option(help="Longest prompt in tokens, in place of the preset's.")
    ] = None,
    haystack: Haystack = None,
    run_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder.", show_default="runs/<model>-<preset>"),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and row samples.")] = 0,
    as_json: Json = False,
) -> None:
    """Map every attention head of a model, and write the report."""
    # Everything that can be wrong without the model is found out before it loads.
    text = read_haystack(haystack) if haystack else None
    quiet()
    from headscope import heads, probes

    chosen = heads.preset(preset)
    if len(model) > 1 and not checkpoints:
        raise probes.HeadscopeError(f"scan takes one model, not {len(model)}, unless with --checkpoints.")
    sources = probes.checkpoints(model) if checkpoints else []
    name = slug(model[0]) if len(model) == 1 else slug(str(Path(model[0]).resolve().parent))
    folder = run_folder or Path("runs") / f"{name}-{chosen.name}{'-training' if checkpoints else ''}"
    from headscope.app.progress import reporting

    try:
        with reporting(err()) as progress:
            if checkpoints:
                training = heads.scan_checkpoints(
                    sources, chosen, folder, device=device, dtype=dtype, progress=progress,
                    loaded=lambda c, m: announce(m, chosen, context, folder / f"step-{c.step}"),
                    context=context, haystack=text, seed=seed,
                )  # fmt: skip
            else:
                loaded = probes.load(model[0], device=device, dtype=dtype)
                announce(loaded, chosen, context, folder)
                headmap = heads.scan(
                    loaded, chosen, folder, context=context, haystack=text, seed=seed, progress=progress
                )
    except KeyboardInterrupt:
        err().print(f"Stopped; the same command goes on from what {folder} holds.", markup=False)
        raise typer.Exit(130) from None
    if checkpoints:
        _finish_training(training, folder, as_json)
    else:
        _finish(headmap, folder, as_json)


scan.__doc__ = f"{scan.__doc__}\n{_EXAMPLES}"


def slug(model: str) -> str:
    """A folder name for a model: its last part, without what file systems dislike."""
    last = Path(model).name or Path(model).resolve().name
    return re.sub(r"[^A-Za-z0-9._]+", "-", last.removesuffix(".gguf")).strip("-.") or "model"


def _finish(headmap: HeadMap, folder: Path, as_json: bool) -> None:
    from headscope.app import machine, tables
    from headscope.app.report import write_report
    from headscope.app.roles import roles_of

    if not speaks():
        return
    page = write_report(folder)
    if as_json:
        found = {role.name: machine.role(role) for role in roles_of(headmap)}
        where = {"run": folder, "headmap": folder / "headmap.parquet", "report": page}
        say_json(machine.as_json(where | machine.described(headmap) | {"roles": found}))
        return
    tables.print_map(out(), headmap, k=3)
    console = out()
    console.print(f"\nHead map  {folder / 'headmap.parquet'}", markup=False)
    console.print(f"Report    {page}", markup=False)
    for rarest in roles_of(headmap)[:1]:
        console.print(f"More      headscope show {folder} --role {rarest.name}", markup=False)


def _finish_training(training: Training, folder: Path, as_json: bool) -> None:
    from headscope.app import machine
    from headscope.app.report import write_report
    from headscope.app.training import as_records, print_training

    if not speaks():
        return
    page = write_report(folder)
    if as_json:
        where = {"run": folder, "report": page}
        say_json(machine.as_json(where | machine.described(training.last) | as_records(training, None)))
        return
    print_training(out(), training)
    console = out()
    console.print(f"\nReport    {page}", markup=False)
    for role in training.last.roles[:1]:
        console.print(f"More      headscope show {folder} --role {role}", markup=False)
