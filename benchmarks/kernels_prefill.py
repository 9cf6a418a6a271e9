"""Mixed prefill against dense attention and FlexAttention on one GPU.

    python benchmarks/kernels_prefill.py --out benchmarks/results/kernels_prefill.json

Shape: batch 1, 32 query and 8 KV heads, bfloat16, causal. Streaming heads keep 64 sink and 256
recent keys. The ideal is `dense * (r + (1 - r) * rho)` with dense = the fastest SDPA backend, r the
share of dense heads and rho the share of the causal triangle that a streaming head touches.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from kernels_timing import medians_ms, provenance, randn, relative_error, save
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from headscope.kernels import mixed_prefill
from headscope.kernels.dense import attention
from headscope.kernels.reference import softmax_sum, visible

HEADS, KV_HEADS, SINK, WINDOW, BLOCK = 32, 8, 64, 256, 128
LAYOUTS = {  # dense KV heads
    "half": [0, 1, 2, 3],
    "every other": [0, 2, 4, 6],
    "scattered": [0, 1, 4, 6],
    "a quarter": [2, 5],
    "none": [],
    "all": list(range(8)),
}
SPARSE_LAUNCHES = [(128, 64, 4, 3, 1), (128, 128, 8, 2, 1), (128, 64, 8, 3, 1), (64, 64, 4, 3, 1)]


def policy(dense: list[int]) -> tuple[list[int], list[int]]:
    size = HEADS // KV_HEADS
    window = [-1 if h // size in dense else WINDOW for h in range(HEADS)]
    return [SINK] * HEADS, window


def ideal_share(n: int, dense: list[int]) -> float:
    width = SINK + WINDOW
    rho = 2 * width / n - (width / n) ** 2
    r = len(dense) / KV_HEADS
    return r + (1 - r) * rho


def block_mask(n: int, window: list[int]) -> BlockMask:
    """The policy's block mask in closed form: evaluating every score would not fit the memory."""
    tiles = torch.arange(n // BLOCK, device="cuda")
    reach = torch.tensor([n if w < 0 else w for w in window], device="cuda")[:, None, None]
    near = (tiles[:, None] - tiles) * BLOCK - (BLOCK - 1)  # smallest distance back in a block
    far = near + 2 * (BLOCK - 1)
    sinks = (tiles * BLOCK < SINK)[None, None, :]
    some = (far >= 0) & ((near < reach) | sinks)
    whole = (near >= 0) & ((far < reach) | (((tiles + 1) * BLOCK <= SINK)[None, None, :]))

    def table(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        order = torch.argsort(blocks.to(torch.int8), dim=-1, descending=True, stable=True)
        return blocks.sum(-1, dtype=torch.int32)[None], order.to(torch.int32)[None]

    reach_of = reach.flatten()

    def rule(b: Any, h: Any, i: Any, j: Any) -> Any:
        return (i >= j) & ((j < SINK) | (i - j < reach_of[h]))

    return BlockMask.from_kv_blocks(*table(some & ~whole), *table(whole), BLOCK_SIZE=BLOCK, mask_mod=rule)


def flex_call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[Callable[[], Any], float]:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    mask = block_mask(q.shape[2], policy(LAYOUTS["half"])[1])
    torch.cuda.synchronize()
    built = time.perf_counter() - begin
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=mask, enable_gqa=True), built * 1e3


def sparse_call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Callable[[], Any]:
    """flash-sparse-attn (BSD) with one window per KV head; tokens before heads in its layout."""
    for name in ("triton_kernels", "triton_kernels.matmul_ogs", "triton_kernels.numerics"):
        # Its fused projections import these; attention alone does without.
        sys.modules.setdefault(name, MagicMock())
    from flash_sparse_attn import flash_dense_attn_func
    from flash_sparse_attn.ops.triton import launch_template
    from triton.runtime.errors import OutOfResources

    x, y, z = (t.transpose(1, 2).contiguous() for t in (q, k, v))
    rows = [[0, 0, 0, x.shape[1]] if g in LAYOUTS["half"] else [SINK, 0, 0, WINDOW] for g in range(KV_HEADS)]
    sizes = torch.tensor(rows, dtype=torch.int32, device="cuda")
    call = partial(flash_dense_attn_func, x, y, z, is_causal=True, window_sizes=sizes, is_local=True)

    def launched(config: tuple[int, ...]) -> Any:
        with patch.object(launch_template, "load_launch_config", lambda **_: config):
            return call()

    # Its autotuner does not come back within minutes: rows, keys, warps, stages, CTAs are tried here.
    took: dict[tuple[int, ...], float] = {}
    for config in SPARSE_LAUNCHES:
        with suppress(OutOfResources):
            took[config] = medians_ms({"": partial(launched, config)}, 3)[""]
    return partial(launched, min(took, key=lambda config: took[config]))


def errors(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dense: list[int]) -> dict[str, float]:
    """Of 64 random rows and the edges, against plain float64 attention; poisoned memory first."""
    torch.full_like(q, torch.nan)  # freed at once: what the call allocates next holds NaN
    sink, window = policy(dense)
    out, lse = mixed_prefill(q, k, v, sink, window, return_lse=True)
    assert lse is not None
    n = q.shape[2]
    rows = torch.cat([torch.randint(n, (60,)), torch.tensor([0, 1, n // 2, n - 1])]).cuda()
    origin, keys = torch.zeros(1, dtype=torch.long, device="cuda"), torch.arange(n, device="cuda")
    worst_out, worst_lse = 0.0, 0.0
    for h in range(HEADS):
        reach = n if window[h] < 0 else window[h]
        seen = visible(rows, keys, origin, sink[h], reach)[:, None]
        x, y, z = (t[:, i, None].double() for t, i in ((q, h), (k, h // 4), (v, h // 4)))
        want, want_lse = softmax_sum(x[:, :, rows], y, z, seen, q.shape[-1] ** -0.5, None)
        worst_out = max(worst_out, relative_error(out[:, h, rows], want[:, 0]))
        worst_lse = max(worst_lse, float((lse[:, h, rows] - want_lse[:, 0]).abs().max()))
    finite = bool(out.isfinite().all() and lse.isfinite().all())
    return {"out_relative": worst_out, "lse_absolute": worst_lse, "every_element_written": finite}


def measure(dim: int, n: int, flex: bool, sparse: bool) -> dict[str, Any]:
    q, k, v = randn(1, HEADS, n, dim), randn(1, KV_HEADS, n, dim), randn(1, KV_HEADS, n, dim)
    scale = dim**-0.5

    def backend(name: str, lse: bool = False) -> Callable[[], Any]:
        return lambda: attention(name, q, k, v, causal=True, scale=scale, lse=lse)

    def mixed(dense: list[int], lse: bool = False) -> Callable[[], Any]:
        sink, window = policy(dense)
        return lambda: mixed_prefill(q, k, v, sink, window, return_lse=lse)

    calls = {"sdpa cudnn": backend("cudnn"), "sdpa flash": backend("flash")}
    calls |= {f"mixed {name}": mixed(dense) for name, dense in LAYOUTS.items()}
    calls["mixed half, with lse"] = mixed(LAYOUTS["half"], lse=True)
    notes: dict[str, Any] = {}
    if flex:
        try:
            calls["flex half"], notes["flex_mask_ms"] = flex_call(q, k, v)
            got = calls["flex half"]()
            notes["flex_agrees"] = relative_error(mixed(LAYOUTS["half"])()[0], got)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            calls.pop("flex half", None)
            notes["flex"] = str(error).splitlines()[0]
    if sparse:
        try:
            calls["flash-sparse-attn half"] = sparse_call(q, k, v)
            got = calls["flash-sparse-attn half"]().transpose(1, 2)
            notes["sparse_agrees"] = relative_error(mixed(LAYOUTS["half"])()[0], got)
        except Exception as error:
            calls.pop("flash-sparse-attn half", None)
            notes["sparse"] = f"{type(error).__name__}: {error}".splitlines()[0]
    rounds = {8192: 60, 32768: 20}.get(n, 7)
    times = medians_ms(calls, rounds)
    dense_ms = min(times["sdpa cudnn"], times["sdpa flash"])
    table = {}
    for name, ms in times.items():
        table[name] = {"ms": round(ms, 4), "speedup_over_dense": round(dense_ms / ms, 3)}
        layout = LAYOUTS.get(name.removeprefix("mixed ").removesuffix(", with lse"))
        if layout is not None and name.startswith("mixed"):
            table[name]["share_of_ideal"] = round(dense_ms * ideal_share(n, layout) / ms, 4)
    wrong = {name: errors(q, k, v, LAYOUTS[name]) for name in ("half", "scattered")}
    return {"head_dim": dim, "n": n, "rounds": rounds, "times": table, "errors": wrong, **notes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 64])
    parser.add_argument("--flex", type=int, nargs="*", default=[128], help="head_dims for FlexAttention")
    parser.add_argument("--sparse", action="store_true", help="beside flash-sparse-attn 2.0.6, if installed")
    options = parser.parse_args()
    torch.manual_seed(0)
    result: dict[str, Any] = {**provenance(), "heads": [HEADS, KV_HEADS], "results": []}
    for dim in options.dims:
        for n in options.sizes:
            result["results"].append(measure(dim, n, dim in options.flex, options.sparse))
            save(options.out, result)


if __name__ == "__main__":
    main()
