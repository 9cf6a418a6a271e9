"""`headscope gates`: DuoAttention's training of one gate per KV head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headscope.app.cli_scan import slug
from headscope.app.options import Device, Dtype, Json, ModelName
from headscope.app.terminal import err, guarded, out, quiet, read_haystack, say_json

if TYPE_CHECKING:
    from headscope.heads import GateSettings, HeadMap
    from headscope.probes import Model


@guarded
def gates(
    model: ModelName,
    steps: Annotated[int, typer.Option(min=1, help="Prompts to train on, one a step.")] = 2000,
    length: Annotated[
        int | None,
        typer.Option(help="Longest prompt in tokens.", show_default="32,000, or the model's context"),
    ] = None,
    shortest: Annotated[
        int | None,
        typer.Option(help="Shortest prompt in tokens.", show_default="a 32nd, and twice the windows"),
    ] = None,
    sink: Annotated[int, typer.Option(min=0, help="First keys that a streaming head sees.")] = 64,
    recent: Annotated[int, typer.Option(min=1, help="Recent keys that a streaming head sees.")] = 256,
    learning_rate: Annotated[float, typer.Option("--lr", help="Peak learning rate of AdamW.")] = 0.02,
    penalty: Annotated[float, typer.Option(help="Weight of the mean gate in the loss.")] = 0.05,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Run layers twice to save memory at long lengths.")
    ] = False,
    haystack: Annotated[
        Path | None, typer.Option(help="UTF-8 text to hide passkeys in, in place of the default.")
    ] = None,
    run_folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder.", show_default="runs/<model>-gates")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of lengths and prompts.")] = 0,
    as_json: Json = False,
) -> None:
    """Train one gate per KV head: how much full attention it needs (DuoAttention).

    Examples:

      headscope gates smollm2 --steps 200 --length 1280 --dtype bfloat16

      headscope gates Qwen/Qwen3-0.6B --length 32000 --recompute --out runs/qwen-gates

    A training that was stopped goes on where it was when the same command runs again.
    """
    text = read_haystack(haystack) if haystack else None
    quiet()
    from headscope import heads, probes
    from headscope.app.progress import Words, reporting

    folder = run_folder or Path("runs") / f"{slug(model)}-gates"
    loaded = probes.load(model, device=device, dtype=dtype)
    longest = length or min(32000, loaded.geometry.context or 32000)
    least = shortest or min(longest, max(longest // 32, 2 * (sink + recent)))
    settings = heads.GateSettings(
        steps=steps, lengths=heads.length_schedule(least, longest), sink=sink, recent=recent,
        learning_rate=learning_rate, penalty=penalty, recompute=recompute, seed=seed,
    )  # fmt: skip
    settings.check(loaded)
    _announce(loaded, settings, folder)
    try:
        with reporting(err(), Words("Gates", "steps", "writing", _detail)) as progress:
            found = heads.train_gates(loaded, settings, folder, haystack=text, progress=progress)
    except KeyboardInterrupt:
        err().print(f"Stopped; the same command goes on from what {folder} holds.", markup=False)
        raise typer.Exit(130) from None
    _finish(found, folder, as_json)


def _detail(step: Any) -> str:
    return f"loss {step.loss:.3g}, mean gate {step.mean_gate:.2f}" if step.done else ""


def _announce(model: Model, settings: GateSettings, folder: Path) -> None:
    g, lengths = model.geometry, settings.lengths
    err().print(
        f"{model.name}: {g.layers} x {g.kv_heads} gates, {settings.steps:,} steps on prompts of "
        f"{lengths[0]:,} to {lengths[-1]:,} tokens, {settings.sink} first + {settings.recent} recent keys, "
        f"on {model.device}.\nRun folder: {folder}",
        markup=False,
    )


def _finish(headmap: HeadMap, folder: Path, as_json: bool) -> None:
    from headscope.app import machine

    groups = headmap.frame.drop_duplicates(["layer", "kv_head"])
    where = folder / "headmap.parquet"
    if as_json:
        gates = groups.pivot(index="layer", columns="kv_head", values="gate").to_numpy().tolist()
        found = {"run": folder, "headmap": where, "gates": gates}
        say_json(machine.as_json(found | machine.described(headmap)))
        return
    open_gates = int((groups["gate"] > 0.5).sum())
    out().print(
        f"{open_gates} of {len(groups)} gates stay above 0.5; mean {groups['gate'].mean():.3f}.\n"
        f"Head map  {where}\nMore      headscope show {folder} --role gate",
        markup=False,
    )
