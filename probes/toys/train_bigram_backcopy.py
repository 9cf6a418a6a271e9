"""Training of the Bigram-Backcopy models, with checkpoints on the way.

    python -m headscope.probes.toys.train_bigram_backcopy --out probes/toys/weights/bigram-backcopy

Writes one transformers model per checkpoint to `<out>/step-<number>`, and what was asked for and the
loss on the way to `training.json`. `--attention relu` replaces the softmax; such a model must be run
with `attach(model, attend=weighted(relu_weights))`, since a transformers configuration cannot say so.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from headscope.probes.model import Model
from headscope.probes.seam import attach
from headscope.probes.toys.bigram_backcopy import model_config, relu_weights, tokenizer_of, weighted, world

CHECKPOINTS = (0, 50, 100, 200, 400, 800, 1600, 3200, 8000)


def train(
    steps: int, size: int, rate: float, layers: int, attention: str, optimiser: str, seed: int
) -> Iterator[tuple[int, GPT2LMHeadModel, float]]:
    """Step, model and loss of the batch, before the first step and after every one."""
    torch.manual_seed(seed)
    hf, here = GPT2LMHeadModel(GPT2Config(**model_config(layers))), world()
    generator = torch.Generator().manual_seed(seed)
    moved = (
        torch.optim.SGD(hf.parameters(), lr=rate, momentum=0.9)
        if optimiser == "sgd"
        else torch.optim.AdamW(hf.parameters(), lr=rate, weight_decay=1e-4)
    )
    yield 0, hf, float("nan")
    relu = attention == "relu"
    with attach(Model(hf, None, "toy"), attend=weighted(relu_weights)) if relu else nullcontext():
        for step in range(1, steps + 1):
            ids = here.sequences(size, generator)
            # The first token cannot be known; the theory's loss begins after it.
            logits = hf(input_ids=ids[:, :-1], use_cache=False).logits[:, 1:]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 2:].flatten())
            moved.zero_grad()
            loss.backward()
            moved.step()
            yield step, hf, loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=max(CHECKPOINTS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--attention", choices=("softmax", "relu"), default="softmax")
    parser.add_argument("--optimiser", choices=("adamw", "sgd"), default="adamw")
    parser.add_argument("--keep", type=int, nargs="+", default=CHECKPOINTS, help="steps to keep")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    log, began, recent = [], time.process_time(), 0.0
    for step, model, loss in train(
        args.steps, args.batch, args.rate, args.layers, args.attention, args.optimiser, args.seed
    ):
        if step in args.keep:
            folder = args.out / f"step-{step}"
            model.save_pretrained(folder)
            tokenizer_of().save_pretrained(folder)
        recent += loss if step else 0.0
        if step and step % 100 == 0:
            entry = {"step": step, "loss": recent / 100, "cpu_seconds": time.process_time() - began}
            log.append({key: round(value, 4) for key, value in entry.items()})
            print(json.dumps(log[-1]), flush=True)
            recent = 0.0
    asked = " ".join(
        f"--{name} {getattr(args, name)}"
        for name in ("steps", "batch", "rate", "layers", "attention", "optimiser", "seed")
    )
    settings: dict[str, Any] = {
        "command": f"python -m headscope.probes.toys.train_bigram_backcopy --out {args.out} {asked} "
        f"--keep {' '.join(map(str, args.keep))}",
        "versions": {"torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "log": log,
    }
    (args.out / "training.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
