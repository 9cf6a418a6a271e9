"""What a scan says before it begins: the model's shape, and how much memory it will take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headscope.app.terminal import err

if TYPE_CHECKING:
    from headscope.heads import Preset
    from headscope.probes import Model


def announce(model: Model, preset: Preset, context: int | None, folder: Path) -> None:
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
