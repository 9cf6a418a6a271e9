"""What observing every head costs, beside the prefill it rides on and beside the usual ways.

    python benchmarks/scan_overhead.py --lengths 2048 4096 --out benchmarks/results/scan_overhead_cpu.json

Times are paired: the plain SDPA prefill and each other method take turns on the same prompt, and
the ratio is taken pair by pair. Peak memory is that of a fresh process per method and length,
over the loaded model; the length that would fill 16 GiB is solved from a quadratic through those
points, and is an extrapolation.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from headscope.probes import Model, Prompt, Recipe, load, observe
from headscope.probes.haystack import default_text

# Random weights are fine for timing; the shape is what counts.
SHAPES: dict[str, dict[str, int]] = {
    "llama-3-8b-shape": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 1 << 17,
    },
}  # fmt: skip
METHODS = ("plain", "headscope", "eager", "bridge")
LABELS = {
    "plain": "plain SDPA prefill",
    "headscope": "headscope: all statistics, all heads",
    "eager": "eager, output_attentions=True",
    "bridge": "TransformerLens run_with_cache, patterns",
}
BUDGET = 16 * 2**30


def model_of(source: str) -> Model:
    """A model to load, or one of a given shape with random weights."""
    if source not in SHAPES:
        return load(source)
    from transformers import LlamaConfig, LlamaForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(
            LlamaConfig(**SHAPES[source], rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
        )
    torch.set_default_dtype(torch.float32)
    return load(model.to(torch.bfloat16))


def prompt_of(model: Model, length: int) -> Prompt:
    """Natural text with an answer marked at its end, so that exact rows are observed as in a scan."""
    if model.tokenizer is None:
        ids = torch.randint(10, 1000, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    else:
        ids = model.tokenizer(default_text()[: 8 * length], add_special_tokens=False)["input_ids"][:length]
    half = length // 2
    return Prompt(
        "needle",
        tuple(ids),
        {"needle": (half, half + 12), "value": (half + 4, half + 10)},
        (length - 8, length),
    )


def runner(model: Model, method: str, prompt: Prompt) -> Callable[[], object]:
    """One prefill by the given method, as a function to call."""
    ids = torch.tensor([prompt.ids], device=model.device)
    if method == "plain":
        return lambda: model.hf(ids, use_cache=False, logits_to_keep=8)
    if method == "headscope":
        return lambda: observe(model, prompt, Recipe())
    if method == "eager":
        return lambda: eager(model, ids)
    return lambda: model.bridge.run_with_cache(ids, names_filter=lambda n: n.endswith("hook_pattern"))


def eager(model: Model, ids: torch.Tensor) -> object:
    model.hf.set_attn_implementation("eager")
    try:
        return model.hf(ids, use_cache=False, logits_to_keep=8, output_attentions=True).attentions
    finally:
        model.hf.set_attn_implementation("sdpa")


def timed(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    kept = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    del kept
    return seconds


@torch.no_grad()
def times(model: Model, method: str, length: int, pairs: int) -> dict[str, float]:
    """Paired seconds of `method` and the plain prefill."""
    prompt = prompt_of(model, length)
    plain, other = runner(model, "plain", prompt), runner(model, method, prompt)
    other(), plain()
    taken = [(timed(plain, model.device), timed(other, model.device)) for _ in range(pairs)]
    ratios = [b / a for a, b in taken]
    return {
        "seconds": statistics.median(b for _, b in taken),
        "plain_seconds": statistics.median(a for a, _ in taken),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


@torch.no_grad()
def peak(source: str, method: str, length: int) -> int:
    """Peak bytes over the loaded model, in this process."""
    model = model_of(source)
    call = runner(model, method, prompt_of(model, length))
    if model.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return int(torch.cuda.max_memory_allocated() - before)
    process = psutil.Process()
    before = highest = process.memory_info().rss
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(torch.no_grad()(call))
        while not running.done():
            highest = max(highest, process.memory_info().rss)
            time.sleep(0.002)
        running.result()
    return highest - before


def peak_elsewhere(source: str, method: str, length: int) -> int:
    command = [sys.executable, __file__, "--model", source, "--peak", method, str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def exhausted_at(lengths: list[int], peaks: list[int], loaded: int) -> int:
    """The length whose fitted peak fills 16 GiB, the loaded model included.

    A quadratic where it grows past the longest length measured, else (memory linear in the
    length, where noise may bend the curve either way) a straight line.
    """
    for degree in (2, 1):
        curve = np.polynomial.Polynomial.fit(lengths, peaks, min(degree, len(lengths) - 1))
        roots = (curve - (BUDGET - loaded)).roots()
        beyond = [r.real for r in roots if abs(r.imag) < 1e-6 and r.real > max(lengths)]
        if beyond:
            return int(min(beyond))
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--memory-lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument(
        "--dense-limit", type=int, default=2048, help="longest prompt for methods that build n x n attention"
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS[1:], default=list(METHODS[1:]))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", nargs=2, metavar=("METHOD", "LENGTH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(peak(args.model, args.peak[0], int(args.peak[1])))
        return
    model = model_of(args.model)
    loaded = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    results: dict[str, object] = {
        "command": "python benchmarks/scan_overhead.py " + " ".join(sys.argv[1:]),
        "device": torch.cuda.get_device_name()
        if model.device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "model": args.model,
    }
    table = Table(title=f"{args.model}, {results['device']}, {model.hf.dtype}")
    columns = ["method", *(f"{n} tokens, s" for n in args.lengths)]
    columns += [f"× plain at {n}" for n in args.lengths]
    for column in (*columns, f"peak at {args.memory_lengths[-1]}, GiB", "16 GiB last to"):
        table.add_column(column)
    plain: dict[int, float] = {}
    for method in (*args.methods, "plain"):
        fits = [n for n in args.lengths if method in ("plain", "headscope") or n <= args.dense_limit]
        timing = {n: times(model, method, n, args.pairs) for n in fits} if method != "plain" else {}
        plain |= {n: t["plain_seconds"] for n, t in timing.items() if n not in plain}
        peaks = [peak_elsewhere(args.model, method, n) for n in args.memory_lengths]
        limit = exhausted_at(args.memory_lengths, peaks, loaded)
        results[method] = {"time": timing, "peak_bytes": dict(zip(args.memory_lengths, peaks, strict=True)),
                           "tokens_at_16_gib_extrapolated": limit}  # fmt: skip
        seconds = plain if method == "plain" else {n: t["seconds"] for n, t in timing.items()}
        ratios = {n: t["ratio"] for n, t in timing.items()} if timing else dict.fromkeys(plain, 1.0)
        table.add_row(
            LABELS[method],
            *(f"{seconds[n]:.2f}" if n in seconds else "not run" for n in args.lengths),
            *(f"{ratios[n]:.2f}" if n in ratios else "" for n in args.lengths),
            f"{peaks[-1] / 2**30:.2f}", f"{limit:,}",
        )  # fmt: skip
    results["plain_seconds"] = plain
    Console(width=140).print(table)
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
