"""Training of the small language model that knows the facts of `facts.world` and can copy.

    python -m headscope.probes.toys.train_facts --out probes/toys/weights/facts

The loss is taken at the answers only. What was asked for, the losses and the accuracies on the
way stand in `training.json` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from headscope.probes.toys.facts import World, document, world

SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
}
LENGTH = 25  # tokens, padding included; no document is longer


def tokenizer_of(here: World) -> PreTrainedTokenizerFast:
    """One token a word."""
    inner = Tokenizer(WordLevel({w: i for i, w in enumerate(here.words)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", pad_token="<unk>"
    )


def model_of(here: World, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            **SHAPE, vocab_size=len(here.words), max_position_embeddings=128, bos_token_id=1,
            eos_token_id=None, pad_token_id=0, tie_word_embeddings=True,
        )
    )  # fmt: skip


def batch_of(here: World, index: dict[str, int], rng: Random, size: int) -> tuple[Tensor, Tensor]:
    """Token ids and which of them are answers. [size, LENGTH] each"""
    ids = torch.zeros(size, LENGTH, dtype=torch.long)
    answers = torch.zeros(size, LENGTH, dtype=torch.bool)
    for i in range(size):
        made = document(here, rng)
        ids[i, : len(made.words)] = torch.tensor([index[w] for w in made.words])
        answers[i, list(made.answers)] = True
    return ids, answers


def loss_of(model: LlamaForCausalLM, ids: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy of the answers in nats."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[answers[:, 1:]], ids[answers])


def train(steps: int, size: int, rate: float, seed: int) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    """Adam with weight decay, a linear warm-up and a cosine decay to a tenth."""
    here = world()
    index, rng, model = {w: i for i, w in enumerate(here.words)}, Random(seed), model_of(here, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    curve = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1.0, i / 100) * (0.55 + 0.45 * math.cos(math.pi * i / steps))
    )
    log, began, recent = [], time.process_time(), 0.0
    for step in range(1, steps + 1):
        loss = loss_of(model, *batch_of(here, index, rng, size))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        curve.step()
        recent += loss.item()
        if step % 100 == 0:
            entry = {"step": step, "loss": recent / 100, "cpu_seconds": time.process_time() - began}
            log.append({key: round(value, 3) for key, value in entry.items()})
            print(json.dumps(log[-1]), flush=True)
            recent = 0.0
    return model.eval(), log


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, log = train(args.steps, args.batch, args.rate, args.seed)
    model.save_pretrained(args.out)
    tokenizer_of(world()).save_pretrained(args.out)
    settings: dict[str, Any] = {
        "command": f"python -m headscope.probes.toys.train_facts --out {args.out} "
        f"--steps {args.steps} --batch {args.batch} --rate {args.rate} --seed {args.seed}",
        "versions": {"torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "log": log,
    }
    (args.out / "training.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
