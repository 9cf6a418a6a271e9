"""Where a scan waits for the GPU, and what it adds to the prefill it rides on.

    python benchmarks/scan_waits.py --model llama-3-8b-shape --lengths 8192 32768 --out waits.json

Per length: seconds of the plain prefill, a needle prompt and a prose prompt observed, taking turns;
ratios are taken turn by turn. Waits are the warnings of `torch.cuda.set_sync_debug_mode`, layer by
layer: between the start of one layer and of the next, the last one up to the end of the prompt's
observation. Kernels are those of which the observed prompt takes more time than the plain prefill.
Without a GPU, or with --seconds, only the seconds are taken.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scan_overhead import model_of, prompt_of, runner, timed
from torch.profiler import ProfilerActivity, profile

from headscope.probes import Model

SHOWN = 12  # kernels


def calls_of(model: Model, length: int) -> dict[str, Callable[[], object]]:
    """The plain prefill and both observed prompts, as functions to call."""
    needle = prompt_of(model, length)
    prose = replace(needle, task="prose", spans={}, answer=None)
    return {
        "plain": runner(model, "plain", needle),
        "needle": runner(model, "headscope", needle),
        "prose": runner(model, "headscope", prose),
    }


def waits(model: Model, call: Callable[[], object]) -> dict[str, Any]:
    """How often the host waited: before the first layer, in each layer, and where most often."""
    marks: list[int] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        handles = [
            layer.register_forward_pre_hook(lambda *_: marks.append(len(caught)))
            for layer in model.layer_modules
        ]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            for handle in handles:
                handle.remove()
    sync = ["synchroniz" in str(w.message) for w in caught]
    edges = [0, *marks, len(sync)]
    counts = [sum(sync[a:b]) for a, b in pairwise(edges)]
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w, s in zip(caught, sync, strict=True) if s)
    return {"before": counts[0], "layers": counts[1:], "places": dict(places.most_common(SHOWN))}


def kernels(call: Callable[[], object]) -> dict[str, tuple[float, int]]:
    """Milliseconds and launches of every kernel of one call."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    return {e.key: (e.self_device_time_total / 1e3, e.count) for e in seen.key_averages()}


def added(plain: dict[str, tuple[float, int]], other: dict[str, tuple[float, int]]) -> list[dict[str, Any]]:
    """What `other` takes beyond `plain`, longest first."""
    none = (0.0, 0)
    found = [
        {
            "kernel": k,
            "ms": other[k][0] - plain.get(k, none)[0],
            "launches": other[k][1] - plain.get(k, none)[1],
        }
        for k in other
    ]
    return sorted(found, key=lambda one: -one["ms"])


@torch.no_grad()
def measure(model: Model, length: int, turns: int, seconds: bool) -> dict[str, Any]:
    """Everything about one length."""
    calls = calls_of(model, length)
    for call in calls.values():
        call()
    taken = [{name: timed(call, model.device) for name, call in calls.items()} for _ in range(turns)]
    result: dict[str, Any] = {"length": length, "turns": taken, "seconds": {}, "ratio": {}}
    for name in calls:
        result["seconds"][name] = statistics.median(t[name] for t in taken)
        result["ratio"][name] = statistics.median(t[name] / t["plain"] for t in taken)
    if model.device.type == "cuda" and not seconds:
        result["waits"] = {name: waits(model, call) for name, call in calls.items()}
        spent = {name: kernels(call) for name, call in calls.items()}
        for name in ("needle", "prose"):
            more = added(spent["plain"], spent[name])
            result[name] = {
                "added_ms": sum(one["ms"] for one in more),
                "added_launches": sum(one["launches"] for one in more),
                "added_kernels": more[:SHOWN],
            }
    return result


def show(result: dict[str, Any], console: Console) -> None:
    for name in result["seconds"]:
        waited = result.get("waits", {}).get(name)
        text = (
            f"{result['length']:>7} {name:7} {result['seconds'][name]:.3f} s, {result['ratio'][name]:.3f} x"
        )
        if waited:
            text += f"; waits before {waited['before']}, by layer {waited['layers']}"
        console.print(text)
    for name in ("needle", "prose"):
        if name in result:
            title = (
                f"{name}: {result[name]['added_ms']:.1f} ms, {result[name]['added_launches']} launches more"
            )
            table = Table("kernel", "ms", "launches", title=title)
            for one in result[name]["added_kernels"]:
                table.add_row(one["kernel"][:90], f"{one['ms']:.2f}", str(one["launches"]))
            console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", action="store_true", help="look no closer: for long prompts")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model, console = model_of(args.model), Console(width=140)
    gpu = model.device.type == "cuda"
    results: dict[str, Any] = {
        "command": "python benchmarks/scan_waits.py " + " ".join(sys.argv[1:]),
        "device": torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "model": args.model,
        "results": [],
    }
    for length in args.lengths:
        results["results"].append(measure(model, length, args.turns, args.seconds))
        show(results["results"][-1], console)
        if args.out:  # after every length: a longer one may not fit the GPU
            args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
