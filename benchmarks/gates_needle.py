"""Which ranking keeps more needle accuracy at the same KV budget: trained gates, or the error of cutting.

    python benchmarks/gates_needle.py runs/smollm2-gates runs/smollm2 --length 2048 --prompts 20 \\
        --out benchmarks/results/gates_needle_smollm2.json

Both maps choose the same number of KV groups that keep everything; the others see sink + recent, in
prefill and in the answer. A prompt counts if greedy decoding gives exactly the answer. The
prompts are those of another seed than the scan's, and no training prompt is a needle.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from headscope.heads import HeadMap, Policy
from headscope.heads.quality import Answer, answer, mean, paired, share
from headscope.probes import TASKS, Model, Prompt, load

METHODS = ("gate", "error")


def policies(gates: HeadMap, scan: HeadMap, ratios: list[float], seed: int) -> dict[str, Policy]:
    """One policy per method and ratio, named `gate 0.5` and so on."""
    source = {"gate": gates, "error": scan}
    return {
        f"{by} {ratio:g}": source[by].policy(ratio=ratio, by=by, seed=seed)
        for ratio in ratios
        for by in METHODS
    }


def needles(model: Model, length: int, count: int, seed: int) -> list[Prompt]:
    return TASKS["needle"].prompts(
        model.tokenizer, lengths=[length], per_length=count, seed=seed, haystack=None
    )


def ask(
    model: Model, policy: Policy | None, prompts: list[Prompt], console: Console, name: str
) -> list[Answer]:
    began = time.perf_counter()
    found = [answer(model, policy, prompt) for prompt in prompts]
    right = sum(a.right for a in found)
    console.print(f"{name}: {right} of {len(found)} right, {time.perf_counter() - began:.0f} s")
    return found


def summary(found: list[Answer], full: list[Answer]) -> dict[str, Any]:
    hits = [a.right for a in found]
    return {
        "accuracy": share(hits).model_dump(),
        "against_full": paired([a.right for a in full], hits).model_dump(),
        "logprob": mean(a.logprob for a in found).model_dump(),
    }


def compared(
    found: dict[str, list[Answer]], chosen: dict[str, Policy], ratios: list[float], length: int
) -> dict[str, Any]:
    """Every policy against full attention, and gates against errors prompt by prompt."""
    full, versus = found["full"], {}
    for ratio in ratios:
        gate, error = found[f"gate {ratio:g}"], found[f"error {ratio:g}"]
        gain = mean(a.logprob - b.logprob for a, b in zip(gate, error, strict=True))
        hits = paired([a.right for a in error], [a.right for a in gate])
        versus[f"{ratio:g}"] = {"accuracy": hits.model_dump(), "logprob": gain.model_dump()}
    return {
        "full": summary(full, full),
        "policies": {
            name: {"kv_share": policy.kv_share(length)} | summary(found[name], full)
            for name, policy in chosen.items()
        },
        "gate_minus_error": versus,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("gates", type=Path, help="run folder of headscope gates")
    parser.add_argument("scan", type=Path, help="run folder or head map of a scan of the same model")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    console, model = Console(), load(asked.model, dtype=asked.dtype)
    gates, scan = HeadMap.open(asked.gates), HeadMap.open(asked.scan)
    prompts = needles(model, asked.length, asked.prompts, asked.seed)
    chosen = policies(gates, scan, asked.ratios, asked.seed)
    found = {"full": ask(model, None, prompts, console, "full attention")}
    found |= {name: ask(model, policy, prompts, console, name) for name, policy in chosen.items()}
    result = {
        "command": "python " + shlex.join(sys.argv), "model": model.name, "fingerprint": model.fingerprint,
        "dtype": asked.dtype, "length": asked.length, "prompts": asked.prompts, "seed": asked.seed,
        "versions": gates.meta.versions,
    } | compared(found, chosen, asked.ratios, asked.length)  # fmt: skip
    console.print_json(json.dumps({k: result[k] for k in ("full", "policies", "gate_minus_error")}))
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
