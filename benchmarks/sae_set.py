"""A set of sparse autoencoders for smollm2, and the speed of their training against plain SAELens.

    python benchmarks/sae_set.py --saes saes/smollm2 --out benchmarks/results/sae_set_h100.json

BatchTopK SAEs of the head outputs of its retrieval layers 17 to 24, which are also most of those that
matter for indirect object identification, and of layer 29. The text is Python's library and what the
model writes itself, in halves. Then one of them is trained anew for a while twice: by headscope, and by
SAELens' own `fit` on the same stream of activations.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headscope.probes import (
    Corpus,
    Model,
    Sae,
    SaeProgress,
    SaeSettings,
    Site,
    Thoroughness,
    build_corpus,
    load,
    train_saes,
)
from headscope.probes.saes.learning import learn, trainer_of
from headscope.probes.saes.stream import Stream

LAYERS = (17, 18, 19, 20, 21, 22, 23, 24, 29)


def settings_of(args: argparse.Namespace) -> SaeSettings:
    return SaeSettings(
        features=args.features, k=args.k, tokens=args.tokens, batch=args.batch, buffer=args.buffer,
        learning_rate=args.rate, seed=args.seed,
    )  # fmt: skip


class Told:
    """Progress on standard output, a line every ten seconds, and when the first step came."""

    def __init__(self) -> None:
        self.last = 0.0

    def text(self, name: str, tokens: int) -> None:
        self._say(f"text: {tokens:,} tokens of {name}")

    def step(self, step: SaeProgress) -> None:
        left = f"{step.seconds_left:.0f} s left" if step.seconds_left is not None else ""
        self._say(f"step {step.done} of {step.total}, {step.seconds:.0f} s, {left}", step.done == step.total)

    def _say(self, line: str, now: bool = False) -> None:
        if now or time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            print(line, flush=True)


def synchronised() -> float:
    """The clock, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def speed(model: Model, corpus: Corpus, settings: SaeSettings, site: Site) -> dict[str, Any]:
    """Seconds of the same steps by headscope and by SAELens' `fit`, capture included, in turns."""
    spent: dict[str, list[float]] = {"headscope": [], "saelens": []}
    for _ in range(3):
        for who, run in (("headscope", ours), ("saelens", plain)):
            trainer = trainer_of(model, site, settings)
            stream = Stream(model, corpus, [site], settings.buffer, settings.batch, settings.seed)
            began = synchronised()
            run(trainer, stream, site, settings)
            spent[who].append(synchronised() - began)
    ratio = sorted(a / b for a, b in zip(spent["headscope"], spent["saelens"], strict=True))
    return {"site": str(site), "steps": settings.steps, "seconds": spent, "ratio": ratio}


def ours(trainer: Any, stream: Stream, site: Site, settings: SaeSettings) -> None:
    learn({site: trainer}, stream, settings.steps)


def plain(trainer: Any, stream: Stream, site: Site, settings: SaeSettings) -> None:
    def batches() -> Iterator[Tensor]:
        fill = 0
        while True:
            yield from (batch[site] for batch in stream.batches(stream.fill(fill)))
            fill += 1

    trainer.data_provider = batches()
    trainer.activation_scaler.scaling_factor = 1.0
    trainer.fit()


def row(sae: Sae) -> dict[str, Any]:
    assert sae.card is not None
    return {"site": str(sae.site), "dead_in_training": sae.card.dead} | sae.card.metrics.model_dump()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--saes", type=Path, required=True, help="folder of the SAEs")
    parser.add_argument("--out", type=Path, help="JSON file of what was measured")
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--samples", type=int, default=3_000_000, help="tokens the model writes")
    parser.add_argument("--tokens", type=int, default=10_000_000, help="activations to learn from")
    parser.add_argument("--features", type=int, default=2304)
    parser.add_argument("--k", type=float, default=32)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--buffer", type=int, default=262_144)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--windows", type=int, default=512, help="held-out windows; a quarter for losses")
    parser.add_argument("--examples", type=int, default=2048, help="windows to find examples in")
    parser.add_argument("--speed", type=int, default=128, help="steps to compare speeds on; 0 for none")
    parser.add_argument("--text", nargs="+", default=["library", "samples"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, told, settings = load("smollm2", dtype="float32"), Told(), settings_of(args)
    sites = [Site(kind="z", layer=layer) for layer in args.layers]
    times = {"begin": synchronised()}
    writer = load("smollm2")  # in the device's own precision, which writes faster
    torch.set_float32_matmul_precision("high")  # only now: loading compares with exact attention
    corpus = build_corpus(writer, args.text, samples=args.samples, seed=args.seed, done=told.text)
    del writer
    times["text"] = synchronised()
    thorough = Thoroughness(args.windows, max(2, args.windows // 4), args.examples, texts=3)
    saes = train_saes(
        model, sites, settings, corpus, args.saes, dtype="float16", thoroughness=thorough, progress=told.step
    )
    times["saes"] = synchronised()
    card = saes[0].card
    assert card is not None
    found: dict[str, Any] = {
        "command": "python benchmarks/sae_set.py --saes saes/smollm2",
        "arguments": {n: v for n, v in vars(args).items() if n not in ("saes", "out")},
        "model": model.name, "fingerprint": model.fingerprint, "device": card.device,
        "versions": card.versions, "tokens_of_text": int(corpus.windows.size),
        "windows": {"learned": len(corpus.learned), "held": len(corpus.held)}, "sinks": card.sinks,
        "seconds": {
            "text": times["text"] - times["begin"], "training": card.seconds,
            "training_and_measuring": times["saes"] - times["text"],
        },
        "saes": [row(sae) for sae in saes],
    }  # fmt: skip
    if torch.cuda.is_available():
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    if args.speed:
        short = settings.model_copy(update={"tokens": args.speed * args.batch})
        found["speed"] = speed(model, corpus, short, sites[0])
    text = json.dumps(found, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
