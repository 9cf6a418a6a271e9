"""Correctness of the GPU paths on odd shapes, against float64, on fresh random inputs.

    python benchmarks/kernels_check.py --out benchmarks/results/kernels_check.json

Freshly allocated memory holds NaN throughout, so an element that no kernel wrote shows up.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from kernels_timing import provenance, relative_error, save

from headscope.kernels import mixed_decode, mixed_prefill, plan_heads
from headscope.kernels.dense import backend
from headscope.kernels.reference import attend

HALF, WHOLE = torch.bfloat16, torch.float32
LIMITS = {HALF: 5e-3, torch.float16: 1e-3, WHOLE: 3e-6}  # of the norm of the output
# name: batch, query heads, KV heads, queries, keys, head_dim, dtype, sinks, windows, padding, softcap
Case = tuple[int, int, int, int, int, int, torch.dtype, list[int], list[int], list[int] | None, float | None]
CASES: dict[str, Case] = {
    "half of the groups": (1, 8, 2, 1000, 1000, 128, HALF, [64] * 8, [-1] * 4 + [256] * 4, None, None),
    "every other group": (1, 16, 4, 777, 777, 128, HALF, [64] * 16, ([-1] * 4 + [256] * 4) * 2, None, None),
    "two sequences": (
        2,
        16,
        4,
        777,
        777,
        64,
        torch.float16,
        [16] * 16,
        ([-1] * 4 + [99] * 4) * 2,
        None,
        None,
    ),
    "split groups": (1, 8, 2, 500, 500, 128, HALF, [4] * 8, [-1, 20, -1, 20, -1, -1, 20, -1], None, None),
    "large, cudnn": (1, 8, 4, 6000, 6000, 128, HALF, [64] * 8, [-1, -1, 256, 256] * 2, None, None),
    "large chunk, cudnn": (1, 8, 2, 3000, 12000, 128, HALF, [64] * 8, [-1] * 4 + [256] * 4, None, None),
    "chunk": (1, 8, 2, 300, 1500, 128, HALF, [64] * 8, [-1] * 4 + [256] * 4, None, None),
    "left padding": (3, 8, 2, 300, 900, 128, HALF, [64] * 8, [-1] * 4 + [256] * 4, [0, 99, 700], None),
    "softcap, d256": (1, 8, 2, 300, 300, 256, HALF, [64] * 8, [-1] * 4 + [25] * 4, None, 20.0),
    "d96, groups of 2": (1, 6, 3, 301, 301, 96, HALF, [8] * 6, [-1, -1, 30, 30, 1, 1], None, None),
    "d256": (1, 4, 2, 300, 300, 256, HALF, [8] * 4, [-1, -1, 30, 30], None, None),
    "float32, sink over n": (1, 8, 2, 300, 500, 128, WHOLE, [600] * 8, [-1] * 4 + [25] * 4, None, None),
    "decode": (2, 8, 2, 1, 5000, 128, HALF, [64] * 8, [-1] * 4 + [256] * 4, None, None),
    "decode, 2 queries, padding": (
        2,
        8,
        2,
        2,
        5000,
        128,
        HALF,
        [64] * 8,
        [-1] * 4 + [256] * 4,
        [0, 4000],
        None,
    ),
    "decode, all streaming": (1, 8, 2, 1, 5000, 64, torch.float16, [64] * 8, [256] * 8, None, None),
    "decode, float32, d256": (1, 4, 2, 1, 3000, 256, WHOLE, [64] * 4, [-1, -1, 256, 256], None, 30.0),
}


def check(name: str, case: Case) -> dict[str, Any]:
    batch, heads, kv_heads, queries, keys, dim, dtype, sink, window, start, softcap = case
    shapes = (batch, heads, queries, dim), (batch, kv_heads, keys, dim), (batch, kv_heads, keys, dim)
    q, k, v = (torch.randn(shape, device="cuda", dtype=dtype) for shape in shapes)
    call = mixed_decode if name.startswith("decode") else mixed_prefill
    out, lse = call(q, k, v, sink, window, key_start=start, softcap=softcap, return_lse=True)
    assert lse is not None
    plan = plan_heads(sink, window, kv_heads)
    want, want_lse = attend(
        q.double(), k.double(), v.double(), plan, scale=dim**-0.5,
        start=torch.tensor(start) if start else None, softcap=softcap,
    )  # fmt: skip
    seen = want_lse > -torch.inf
    error = relative_error(out, want)
    lse_error = float((lse.double() - want_lse)[seen].abs().max())
    blank = bool((lse[~seen] == -torch.inf).all() and (out[~seen] == 0).all())
    return {
        "sdpa_backend_of_this_shape": backend(q, k, v),
        "out_relative": error,
        "lse_absolute": lse_error,
        "passed": error < LIMITS[dtype] and lse_error < 1e-5 and blank,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh memory with NaN
    results = {name: check(name, case) for name, case in CASES.items()}
    save(
        options.out,
        {**provenance(), "limits_out": {str(d): x for d, x in LIMITS.items()}, "results": results},
    )
    failed = [name for name, result in results.items() if not result["passed"]]
    raise SystemExit(f"failed: {failed}" if failed else 0)


if __name__ == "__main__":
    main()
