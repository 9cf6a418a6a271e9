"""Prefill, decode and memory of a whole model under a policy, against full attention.

    python benchmarks/serving.py --out benchmarks/results/serving_h100.json

A Llama-3-8B shape with random weights (timing does not care), bfloat16, batch 1; every other KV group
streams with 64 + 256 keys. Three arms: transformers with its own cache and SDPA through cuDNN, the
head-wise cache with every group full, and with half the groups streaming. Prefill is one forward pass over
the whole prompt; decode is the median time between tokens, and the GPU's share of it, since
transformers' own Python is most of a step at short lengths; `steps` is the time between tokens of
recorded steps, which spare that Python. At --chunked lengths the prompt comes in
chunks of 32K, once. For the --longest contexts the cache is filled without a prefill, then one chunk and
a few tokens are run for real: a context that fits with all groups full shows what memory is saved there.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from kernels_timing import provenance, save
from scan_overhead import model_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache

from headscope.heads import Origin, Policy, Serving, Window, kv_bytes
from headscope.kernels import HeadwiseLayer
from headscope.kernels.stores import SLACK
from headscope.probes import Model

ARMS = ("transformers", "full", "half")
DECODE = 32


def policy_of(model: Model, arm: str) -> Policy:
    """All groups full, or every other one streaming."""
    g, window = model.geometry, Window(sink=64, recent=256)
    row = tuple(window if arm == "half" and i % 2 else None for i in range(g.kv_heads))
    return Policy(
        model=model.name, fingerprint=model.fingerprint, geometry=g, retain=(row,) * g.layers,
        compute=(tuple(row[h // g.group_size] for h in range(g.heads)),) * g.layers,
        origin=Origin(by="benchmark"),
    )  # fmt: skip


@contextmanager
def serving(model: Model, arm: str) -> Iterator[tuple[DynamicCache, Serving | None]]:
    """A fresh cache with the arm's attention in force."""
    with ExitStack() as stack:
        if arm == "transformers":
            stack.enter_context(
                sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True)
            )
            yield DynamicCache(config=model.hf.config), None
        else:
            served = stack.enter_context(policy_of(model, arm).attach(model))
            yield served.cache(), served


def forward(model: Model, cache: DynamicCache, tokens: int) -> float:
    """Seconds of one forward pass over `tokens` new tokens."""
    ids = torch.randint(10, 1000, (1, tokens), device="cuda")
    torch.cuda.synchronize()
    began = time.perf_counter()
    model.hf(input_ids=ids, past_key_values=cache, logits_to_keep=1)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def decode(model: Model, cache: DynamicCache) -> dict[str, float]:
    """Milliseconds per token: wall clock, and GPU kernels alone."""
    for _ in range(4):
        forward(model, cache, 1)
    wall = statistics.median(forward(model, cache, 1) for _ in range(DECODE))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(4):
            forward(model, cache, 1)
    return {"decode_ms": wall * 1e3, "decode_gpu_ms": busy(seen) / 4e3}


def busy(seen: torch.profiler.profile) -> float:
    """Microseconds in which the GPU ran anything: a kernel may start, and wait, before another has ended."""
    kernels = [e.time_range for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    total, done = 0.0, 0.0
    for span in sorted(kernels, key=lambda r: r.start):
        total += max(0.0, span.end - max(span.start, done))
        done = max(done, span.end)
    return total


def recorded(model: Model, served: Serving, cache: DynamicCache) -> dict[str, float]:
    """Milliseconds per token of recorded steps, by the wall clock, and how far off the last one was."""
    token = torch.full((1, 1), 11, device="cuda")
    with served.steps(cache, room=DECODE + 8) as step:
        for _ in range(4):
            step(token)
        seconds = []
        for _ in range(DECODE):
            torch.cuda.synchronize()
            began = time.perf_counter()
            got = step(token)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    for layer in cache.layers:  # the last token again, as a plain step in the same place
        assert isinstance(layer, HeadwiseLayer)
        layer.length -= 1
    want = model.hf(input_ids=token, past_key_values=cache, logits_to_keep=1).logits[:, -1]
    gap = float((got - want).abs().max() / want.abs().max())
    return {"steps_ms": statistics.median(seconds) * 1e3, "steps_gap": gap}


def gib(count: int) -> float:
    return round(count / 2**30, 3)


def measured(model: Model, arm: str, length: int, rounds: int) -> dict[str, Any]:
    """One arm at one length, prefilled for real."""
    seconds = []
    for turn in range(rounds + 1):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with serving(model, arm) as (cache, served):
            seconds.append(forward(model, cache, length))
            peak = torch.cuda.max_memory_allocated()
            row = {"kv_gib": gib(kv_bytes(cache)), "prefill_peak_gib": gib(peak)}
            if turn == rounds:
                row |= decode(model, cache)
                row |= recorded(model, served, cache) if served else {}
        del cache
    return {"arm": arm, "length": length, "prefill_s": statistics.median(seconds[1:]), "rounds": rounds} | row


def chunked(model: Model, arm: str, length: int) -> dict[str, Any]:
    """One arm at one length, prefilled once in chunks of 32K, as DuoAttention measured."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with serving(model, arm) as (cache, served):
        seconds = sum(forward(model, cache, 32768) for _ in range(length // 32768))
        row = {"kv_gib": gib(kv_bytes(cache)), "prefill_peak_gib": gib(torch.cuda.max_memory_allocated())}
        row |= decode(model, cache)
        row |= recorded(model, served, cache) if served else {}
    return {"arm": arm, "length": length, "chunk": 32768, "prefill_s": seconds} | row


def filled(model: Model, arm: str, length: int, chunk: int) -> dict[str, Any]:
    """One arm at a length that is not prefilled: synthetic keys, then a real chunk and real tokens."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    g = model.geometry
    with serving(model, arm) as (cache, served):
        for layer in cache.layers:
            assert isinstance(layer, HeadwiseLayer)
            before, groups = length - chunk, layer.plan
            spare = length + max(SLACK, length // 32)
            make = lambda n, slots: torch.empty(  # noqa: E731
                (1, n, slots, g.head_dim), dtype=torch.bfloat16, device="cuda"
            ).normal_()
            layer.length, layer.is_initialized = before, True
            layer.dtype, layer.device = torch.bfloat16, model.device
            layer.dense = tuple(make(len(groups.dense_groups), spare) for _ in "kv")  # type: ignore[assignment]
            if groups.streaming_groups:
                layer.stream = tuple(make(len(groups.streaming_groups), 320) for _ in "kv")  # type: ignore[assignment]
        row: dict[str, Any] = {"chunk": chunk, "chunk_s": forward(model, cache, chunk)}
        row |= {"kv_gib": gib(kv_bytes(cache)), "peak_gib": gib(torch.cuda.max_memory_allocated())}
        row |= decode(model, cache)
        row |= recorded(model, served, cache) if served else {}
    return {"arm": arm, "length": length, "filled": True} | row


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="llama-3-8b-shape")
    parser.add_argument("--lengths", type=int, nargs="*", default=[32768, 131072])
    parser.add_argument("--longest", type=int, nargs="*", default=[262144, 393216, 524288, 655360, 786432])
    parser.add_argument("--chunked", type=int, nargs="*", default=[327680])
    parser.add_argument("--chunk", type=int, default=8192, help="of the longest contexts")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out")
    asked = parser.parse_args()
    model = model_of(asked.model)
    result: dict[str, Any] = provenance() | {
        "timing": "wall clock around synchronised forward passes; median of rounds after one warm-up",
        "policy": "every other KV group 64 + 256", "rows": [],
    }  # fmt: skip
    rows = result["rows"]
    for length in asked.lengths:
        for arm in ARMS:
            rows.append(attempt(measured, model, arm, length, asked.rounds))
            save(asked.out, result)
    for length in asked.chunked:
        for arm in ARMS[1:]:
            rows.append(attempt(chunked, model, arm, length))
            save(asked.out, result)
    for length in asked.longest:
        for arm in ARMS[1:]:
            if not any(r["arm"] == arm and "error" in r for r in rows):
                rows.append(attempt(filled, model, arm, length, asked.chunk))
                save(asked.out, result)


def attempt(measure: Any, model: Model, arm: str, length: int, *options: Any) -> dict[str, Any]:
    """The row, or that it did not fit."""
    try:
        return measure(model, arm, length, *options)
    except torch.OutOfMemoryError as error:
        return {"arm": arm, "length": length, "error": f"out of memory: {str(error).split('.')[0]}"}


if __name__ == "__main__":
    main()
