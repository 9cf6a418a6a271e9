"""Fused row statistics against dense attention and the plain torch statistics on one GPU.

    python benchmarks/kernels_rows.py --out benchmarks/results/kernels_rows.json

Shape: batch 1, 32 query and 8 KV heads, head_dim 128, bfloat16; 512 rows drawn at random, all
heads. `masses` asks for what a head scan ranks by (sink mass, local mass, entropy, largest mass and
its key); `everything` for all that `row_statistics` offers with the scan's default settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from kernels_timing import medians_ms, provenance, randn, save

from headscope.kernels.dense import attention
from headscope.kernels.rows import RowStatistics, row_statistics
from headscope.kernels.rows_fused import fused_row_statistics

HEADS, KV_HEADS, DIM = 32, 8, 128
MASSES: dict[str, Any] = {"first": (4,), "recent": (256,), "top": 1}
EVERYTHING: dict[str, Any] = {
    "first": (1, 4, 64), "recent": (64, 256, 1024), "keep": ((64, 256),), "offsets": ((1,),), "top": 1,
}  # fmt: skip


def draw(n: int, rows: int) -> tuple[torch.Tensor, ...]:
    """k, v of a sequence, the queries of random rows, and what each row sees."""
    at = torch.randperm(n, device="cuda")[None, :rows]
    k, v, q = randn(1, KV_HEADS, n, DIM), randn(1, KV_HEADS, n, DIM), randn(1, HEADS, rows, DIM)
    return q, k, v, at, torch.zeros_like(at), at + 1


def errors(n: int) -> dict[str, float]:
    """Largest absolute difference of every statistic from the plain float32 ones, fresh inputs."""
    inputs = draw(n, 128)
    spans = torch.tensor([[[10, 40], [n // 4, n // 2]]], device="cuda")
    torch.full((1, HEADS, 128, 32, DIM), torch.nan, device="cuda")  # freed at once: poisons memory
    options = {**EVERYTHING, "scaling": DIM**-0.5, "spans": spans}
    got, want = fused_row_statistics(*inputs, **options), row_statistics(*inputs, **options)
    worst = {}
    for name in (f.name for f in fields(RowStatistics)):
        a, b = getattr(got, name), getattr(want, name)
        if name == "top_key":
            worst["top_key_disagreements"] = float((a != b).double().mean())
        else:
            same = (a == b) | (a.isnan() & b.isnan())
            worst[name] = float(torch.where(same, 0, (a - b).abs()).max())
    return worst


def measure(n: int, rows: int) -> dict[str, Any]:
    inputs = draw(n, rows)
    q, k, v = randn(1, HEADS, n, DIM), inputs[1], inputs[2]
    scale = DIM**-0.5

    def fused(**options: Any) -> Callable[[], Any]:
        return lambda: fused_row_statistics(*inputs, scaling=scale, **options)

    calls = {
        "dense attention (sdpa cudnn)": lambda: attention(
            "cudnn", q, k, v, causal=True, scale=scale, lse=False
        ),
        "fused masses": fused(**MASSES, values=False, received=False),
        "fused everything": fused(**EVERYTHING),
        "plain everything": lambda: row_statistics(*inputs, scaling=scale, **EVERYTHING),
    }
    times = medians_ms(calls, 7 if n > 100_000 else 15)
    dense = times["dense attention (sdpa cudnn)"]
    table = {x: {"ms": round(ms, 4), "share_of_dense": round(ms / dense, 4)} for x, ms in times.items()}
    return {"n": n, "rows": rows, "times": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.manual_seed(0)
    result: dict[str, Any] = {**provenance(), "heads": [HEADS, KV_HEADS], "head_dim": DIM, "results": []}
    for n in (8192, 32768, 131072):
        found = [measure(n, rows) for rows in (512, 128)]
        result["results"] += found
        found[0]["errors"] = errors(n)
        save(options.out, result)


if __name__ == "__main__":
    main()
