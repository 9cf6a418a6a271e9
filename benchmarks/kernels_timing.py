"""Timing and provenance shared by the kernel benchmarks."""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import triton

_FLUSH_BYTES = 256 << 20  # several times the L2 cache
_LEAD_CYCLES = 5_000_000  # about 2.5 ms: the host queues the launches while the GPU spins


def medians_ms(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median GPU time of each call in ms, by CUDA events.

    The calls take turns, so that a change of clocks meets all of them. Each is warmed up, finds
    the L2 cache cold, and has its launches queued before the clock starts. The cache is flushed by
    reading: lines written would be evicted in the measured call's time.
    """
    flush = torch.zeros(_FLUSH_BYTES // 4, device="cuda")
    for call in calls.values():
        call()
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.sum()
            torch.cuda._sleep(_LEAD_CYCLES)
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(seen) for name, seen in times.items()}


def provenance() -> dict[str, str]:
    """The machine, the versions and the command behind a result, wherever it was written."""
    options = [a for a in sys.argv[1:] if a != "--out" and not a.endswith(".json")]
    return {
        "command": "python " + " ".join(["benchmarks/" + Path(sys.argv[0]).name, *options]),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "python": platform.python_version(),
        "timing": "median of CUDA event times; calls take turns; L2 flushed; warm-up excluded",
    }


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference, in float64; NaN never passes."""
    return float((got.double() - want.double()).norm() / want.double().norm())


def randn(*shape: int) -> torch.Tensor:
    """Fresh standard normal bfloat16 input."""
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def save(path: str | None, result: dict[str, Any]) -> None:
    """Print the result and, if a path is given, write it as JSON."""
    text = json.dumps(result, indent=1)
    print(text, flush=True)
    if path:
        Path(path).write_text(text + "\n")
