"""Mixed decode against SDPA on one GPU: one new query, half of the KV groups streaming (64 + 256).

    python benchmarks/kernels_decode.py --out benchmarks/results/kernels_decode.json

Shape: 32 query and 8 KV heads, head_dim 128, bfloat16. The ideal is the fastest SDPA backend's time
over the full cache times the share of its bytes that the policy reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from kernels_timing import medians_ms, provenance, randn, relative_error, save

from headscope.kernels import cached_decode, mixed_decode, plan_heads
from headscope.kernels.decode import attend_stores
from headscope.kernels.dense import attention
from headscope.kernels.reference import attend

HEADS, KV_HEADS, SINK, WINDOW = 32, 8, 64, 256


def policy(dense: int) -> tuple[list[int], list[int]]:
    """The first `dense` KV heads are dense."""
    size = HEADS // KV_HEADS
    return [SINK] * HEADS, [-1] * (dense * size) + [WINDOW] * ((KV_HEADS - dense) * size)


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as a CUDA graph: no host time between its kernels."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(dim: int, n: int, batch: int) -> dict[str, Any]:
    q, k, v = (randn(batch, h, m, dim) for h, m in ((HEADS, 1), (KV_HEADS, n), (KV_HEADS, n)))
    sink, window = policy(4)
    # The streaming half of the cache is random where it should be a copy: the time is the same.
    dense = k[:, :4].contiguous(), v[:, :4].contiguous()
    ring = tuple(randn(batch, 4, SINK + WINDOW, dim) for _ in range(2))

    def sdpa(name: str) -> Callable[[], Any]:
        return lambda: attention(name, q, k, v, causal=False, scale=dim**-0.5, lse=False)

    def one_cache() -> Any:
        return mixed_decode(q, k, v, sink, window, return_lse=True)

    def two_caches() -> Any:
        return cached_decode(q, dense, ring, sink, window, length=n, kv_heads=KV_HEADS, return_lse=True)

    calls = {
        "sdpa cudnn": sdpa("cudnn"),
        "sdpa flash": sdpa("flash"),
        "all dense": lambda: mixed_decode(q, k, v, sink, [-1] * HEADS),
        "mixed, one cache": one_cache,
        "mixed, two caches": two_caches,
        "mixed, two caches, CUDA graph": captured(two_caches),
        "none dense": lambda: mixed_decode(q, k, v, sink, [WINDOW] * HEADS),
    }
    times = medians_ms(calls, 60)
    best = min(times["sdpa cudnn"], times["sdpa flash"])
    full_bytes = 2 * batch * KV_HEADS * n * dim * 2
    shares = {"mixed": (n + SINK + WINDOW) / (2 * n), "all": 1.0, "none": (SINK + WINDOW) / n}
    table = {}
    for name, ms in times.items():
        share = shares.get(name.replace(",", " ").split()[0], 1.0)
        table[name] = {
            "ms": round(ms, 4),
            "speedup_over_dense": round(best / ms, 3),
            "terabytes_per_second": round(full_bytes * share / ms / 1e9, 3),
        }
        if name.startswith(("mixed", "all")):
            table[name]["share_of_ideal"] = round(best * share / ms, 4)
    return {
        "head_dim": dim,
        "n": n,
        "batch": batch,
        "times": table,
        "errors": errors(q, k, v, dense, ring),
    }


def errors(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dense: tuple[torch.Tensor, ...],
    ring: tuple[torch.Tensor, ...],
) -> dict[str, Any]:
    """Both layouts against the plain torch references in float64, two sequences at most."""
    (sink, window), n, scale = policy(4), k.shape[2], q.shape[3] ** -0.5
    plan = plan_heads(sink, window, KV_HEADS)
    q, k, v = (x[:1] for x in (q, k, v))
    stores = [tuple(x[:1] for x in pair) for pair in (dense, ring)]
    wide = [tuple(x.double() for x in pair) for pair in stores]
    full = attend(q.double(), k.double(), v.double(), plan, scale=scale)
    split = attend_stores(q.double(), *wide, plan, n, starts=None, scale=scale, softcap=None)  # type: ignore[arg-type]
    results = {
        "one cache": (mixed_decode(q, k, v, sink, window, return_lse=True), full),
        "two caches": (
            cached_decode(q, *stores, sink, window, length=n, kv_heads=KV_HEADS, return_lse=True),  # type: ignore[arg-type]
            split,
        ),
    }
    return {
        name: {
            "out_relative": relative_error(got[0], want[0]),
            "lse_absolute": float((got[1] - want[1]).abs().max()),
        }
        for name, (got, want) in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.manual_seed(0)
    result: dict[str, Any] = {**provenance(), "heads": [HEADS, KV_HEADS], "results": []}
    for dim, n, batch in [
        (128, 131072, 1),
        (128, 131072, 4),
        (128, 32768, 1),
        (128, 32768, 4),
        (128, 8192, 1),
        (64, 131072, 1),
    ]:
        result["results"].append(measure(dim, n, batch))
        save(options.out, result)


if __name__ == "__main__":
    main()
