"""Training of the models of repetition.

    python -m headscope.probes.toys.train_repeats --out probes/toys/weights/repeats

Writes a transformers model, its tokenizer, and what was asked for and the loss on the way.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from headscope.probes.toys.repeats import model_config, texts, tokenizer_of


def train(
    steps: int, size: int, rate: float, layers: int, heads: int, seed: int
) -> Iterator[tuple[LlamaForCausalLM, float]]:
    """Model and loss of the batch, after every step."""
    torch.manual_seed(seed)
    hf = LlamaForCausalLM(LlamaConfig(**model_config(layers, heads)))
    generator = torch.Generator().manual_seed(seed)
    moved = torch.optim.AdamW(hf.parameters(), lr=rate, weight_decay=0.01)
    slower = torch.optim.lr_scheduler.OneCycleLR(moved, rate, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        ids, again = texts(size, generator)
        logits = hf(input_ids=ids[:, :-1], use_cache=False).logits[:, again:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, again + 1 :].flatten())
        moved.zero_grad()
        loss.backward()
        moved.step()
        slower.step()
        yield hf, loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    log, began, recent = [], time.process_time(), 0.0
    asked = {n: getattr(args, n) for n in ("steps", "batch", "rate", "layers", "heads", "seed")}
    trained = train(args.steps, args.batch, args.rate, args.layers, args.heads, args.seed)
    for step, (model, loss) in enumerate(trained, 1):
        recent += loss
        if step == args.steps:
            model.save_pretrained(args.out)
        if step % 250 == 0:
            entry = {"step": step, "loss": recent / 250, "cpu_seconds": time.process_time() - began}
            log.append({key: round(value, 4) for key, value in entry.items()})
            print(json.dumps(log[-1]), flush=True)
            recent = 0.0
    tokenizer_of().save_pretrained(args.out)
    words = " ".join(f"--{name} {value}" for name, value in asked.items())
    settings = {
        "command": f"python -m headscope.probes.toys.train_repeats --out {args.out} {words}",
        "versions": {"torch": torch.__version__}, "threads": torch.get_num_threads(), "log": log,
    }  # fmt: skip
    (args.out / "training.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
