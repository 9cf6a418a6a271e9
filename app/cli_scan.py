"""`headscope scan`: the main job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headscope.app.terminal import err, guarded, out, quiet, read_haystack, say_json

if TYPE_CHECKING:
    from headscope.heads import HeadMap, Preset
    from headscope.probes import Model

_EXAMPLES = """
Examples:

  headscope scan smollm2 --preset quick

  headscope scan Qwen/Qwen3-0.6B --context 8192 --out runs/qwen

  headscope scan ./my-model --haystack notes.txt --seed 1 --json

  torchrun --nproc-per-node 8 -m headscope.app scan ./my-model --preset thorough

A scan that was stopped goes on where it was when the same command runs again.
"""


@guarded
def scan(
    model: Annotated[str, typer.Argument(help="smollm2, a hub id (org/name), a folder, or a .gguf file.")],
    preset: Annotated[str, typer.Option(help="quick, standard or thorough.")] = "standard",
    context: Annotated[
        int | None, typer.Option(help="Longest prompt in tokens, in place of the preset's.")
    ] = None,
    haystack: Annotated[
        Path | None, typer.Option(help="UTF-8 text to hide needles in, in place of the default.")
    ] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder.", show_default="runs/<model>-<preset>"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the GPU when there is one.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16.", show_default="by device"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of prompts and row samples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Map every attention head of a model, and write the report."""
    # Everything that can be wrong without the model is found out before it loads.
    text = read_haystack(haystack) if haystack else None
    quiet()
    from headscope import heads, probes

    chosen = heads.preset(preset)
    folder = run_folder or Path("runs") / f"{slug(model)}-{chosen.name}"
    loaded = probes.load(model, device=device, dtype=dtype)
    _announce(loaded, chosen, context, folder)
    from headscope.app.progress import reporting

    try:
        with reporting(err()) as progress:
            headmap = heads.scan(
                loaded, chosen, folder, context=context, haystack=text, seed=seed, progress=progress
            )
    except KeyboardInterrupt:
        err().print(f"Stopped; the same command goes on from what {folder} holds.", markup=False)
        raise typer.Exit(130) from None
    _finish(headmap, folder, as_json)


scan.__doc__ = f"{scan.__doc__}\n{_EXAMPLES}"


def slug(model: str) -> str:
    """A folder name for a model: its last part, without what file systems dislike."""
    last = Path(model).name or Path(model).resolve().name
    return re.sub(r"[^A-Za-z0-9._]+", "-", last.removesuffix(".gguf")).strip("-.") or "model"


def _announce(model: Model, preset: Preset, context: int | None, folder: Path) -> None:
    """What is about to happen, and how much memory it will take."""
    from headscope.heads import estimate_memory

    g = model.geometry
    longest = min(context or preset.context, g.context or preset.context)
    need = estimate_memory(model, longest, preset.recipe(0))
    console = err()
    console.print(
        f"{model.name}: {g.layers} layers of {g.heads} query heads, {g.kv_heads} KV heads; "
        f"preset {preset.name}, prompts up to {longest:,} tokens, on {model.device}.",
        markup=False,
    )
    console.print(
        f"Memory: about {gib(need.total)} ({gib(need.weights)} weights, {gib(need.held)} program, "
        f"{gib(need.prefill)} prefill, {gib(need.rows)} rows){_warning(model, need.more)}.",
        markup=False,
    )
    console.print(f"Run folder: {folder}", markup=False)


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"


def _warning(model: Model, more: int) -> str:
    """Say so when what is still to be allocated exceeds what is free."""
    free = _free(model.device)
    return f"; only {gib(free)} are free, a smaller --context needs less" if more > free else ""


def _free(device: Any) -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _finish(headmap: HeadMap, folder: Path, as_json: bool) -> None:
    from headscope.app import machine, tables
    from headscope.app.report import write_report
    from headscope.app.roles import roles_of
    from headscope.app.terminal import speaks

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
