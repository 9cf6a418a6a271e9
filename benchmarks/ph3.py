"""PH3 on a model's own knowledge: both directions, held-out relations and formats, and its rivals.

    python benchmarks/ph3.py --out benchmarks/results/ph3_smollm2.json

Heads and their number come from some relations in two formats; everything reported is about
other relations, in those formats and in two others. Heads are pruned in the rows that write the
answer. Answers are told by their first token.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headscope.heads import (
    Conflicts,
    Importance,
    Settled,
    context_aware,
    find_pruning,
    instructed,
    prune,
    random_heads,
    settle,
)
from headscope.heads.ph3 import KS, OTHER, Pruning, Side, halves, ranked
from headscope.heads.rivals import INSTRUCTIONS
from headscope.probes import HeadId, Model, attribution_patching, load

LEARNED = ("capital", "class", "profession", "colour")
FORMATS = ("list", "passage")
SIDES: tuple[Side, ...] = ("memory", "context")
RATES = ("memory", "context", "other", "agreement", "closed")


def paired(before: Settled, after: Settled, side: str, seed: int) -> list[float]:
    """Change of a rate in points and its 95% bootstrap interval over prompts."""
    moved = getattr(after, side).astype(float) - getattr(before, side).astype(float)
    rng = np.random.default_rng(seed)
    means = moved[rng.integers(0, len(moved), (2000, len(moved)))].mean(1)
    return [round(100 * float(x), 1) for x in (moved.mean(), *np.quantile(means, (0.025, 0.975)))]


def arm(before: Settled, after: Settled, seed: int, **more: Any) -> dict[str, Any]:
    rates = {name: round(value, 4) for name, value in after.rates().items()}
    moved = {
        f"{s}_change_points": paired(before, after, s, seed)
        for s in ("memory", "context", "agreement", "closed")
    }
    return {**more, **rates, **moved}


def variants(
    model: Model, found: dict[Side, Pruning], gradient: dict[Side, list[HeadId]], draws: int, seed: int
) -> dict[str, list[HeadId]]:
    """Head sets by the name of the arm."""
    sets: dict[str, list[HeadId]] = {}
    rng = np.random.default_rng(seed)
    for side, pruning in found.items():
        k = pruning.choice.k
        order = pruning.importance.ranked(OTHER[side])
        sets |= {f"{side}/ph3/{n}": order[:n] for n in KS}
        if k:
            sets[f"{side}/gradient/{k}"] = gradient[side][:k]
            for i in range(draws):
                drawn = random_heads(order[:k], model.geometry.heads, order[: max(KS)], rng)
                if drawn:
                    sets[f"{side}/random/{k}/{i}"] = drawn
    return sets


def rivals(
    model: Model, development: Conflicts, test: Conflicts, before: Settled, seed: int
) -> dict[str, dict[str, Any]]:
    """Arms that touch no head: context-aware decoding, alpha chosen on `development`, and instructions."""
    decoded, arms = context_aware(model, development), {}
    for side in SIDES:
        won = {alpha: float(getattr(settled, side).mean()) for alpha, settled in decoded.items()}
        alpha = max(won, key=lambda a, won=won: (won[a], -abs(a)))  # type: ignore[misc]
        (contrasted,) = context_aware(model, test, (alpha,)).values()
        arms[f"{side}/context-aware decoding"] = arm(before, contrasted, seed, alpha=alpha)
        told = instructed(model, test, INSTRUCTIONS[side])
        arms[f"{side}/instruction"] = arm(before, told, seed)
    return arms


def save(results: dict[str, Any], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--facts", type=int, default=280, help="facts to ask closed-book")
    parser.add_argument("--paths", type=int, default=32, help="prompts for path patching")
    parser.add_argument("--favour", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rivals", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--draws", type=int, default=5, help="random head sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.process_time()
    model = load(args.model)
    data = Conflicts.known(model, args.facts, args.seed)
    learned = data.where(lambda p: p.meta["relation"] in LEARNED and p.meta["format"] in FORMATS)
    tests = {
        "held-out relations": data.where(lambda p: p.meta["relation"] not in LEARNED),
        "held-out formats": data.where(
            lambda p: p.meta["relation"] in LEARNED and p.meta["format"] not in FORMATS
        ),
    }
    print(len(data), "facts known,", len(learned), "of them to learn from", flush=True)
    fitting, development = halves(learned, args.seed)
    paths = fitting.conflict[: args.paths]
    importance = Importance.of(model, paths)
    print("importance", round(time.process_time() - began), flush=True)
    found = {
        side: find_pruning(model, learned, side, positions="generated", seed=args.seed, importance=importance)
        for side in args.favour
    }
    slope = attribution_patching(model, paths, positions="last", towards="zero")
    loss = -slope.estimate("logit_diff").value
    gradient: dict[Side, list[HeadId]] = {"memory": ranked(-loss), "context": ranked(loss)}
    sets = variants(model, found, gradient, args.draws, args.seed)
    results: dict[str, Any] = {
        "command": "python benchmarks/ph3.py " + " ".join(sys.argv[1:]),
        "model": args.model, "fingerprint": model.fingerprint, "seed": args.seed,
        "versions": {"torch": torch.__version__},
        "facts_asked": args.facts, "facts_known": len(data),
        "known_by_relation": dict(Counter(data.labels("relation"))),
        "learned_from": {
            "relations": LEARNED, "formats": FORMATS, "facts": len(learned), "paths": len(paths)
        },
        "heads": {
            side: [
                {"head": str(h), "memory": round(float(importance.side("memory").value[h.layer, h.head]), 3),
                 "context": round(float(importance.side("context").value[h.layer, h.head]), 3),
                 "balance_se": round(float(importance.balance().se[h.layer, h.head]), 3)}
                for h in importance.ranked(side)[: max(KS)]
            ]
            for side in SIDES
        },
        "chosen_k": {side: pruning.choice.k for side, pruning in found.items()},
        "development": {
            side: {
                k: {name: round(value, 4) for name, value in s.rates().items() if "_" not in name}
                for k, s in pruning.choice.curve.items()
            }
            for side, pruning in found.items()
        },
        "tests": {},
    }  # fmt: skip
    print(json.dumps(results["chosen_k"]), round(time.process_time() - began), flush=True)
    for name, test in tests.items():
        pruned = [(prune(model, heads, "generated"),) for heads in sets.values()]
        before, *after = settle(model, test, [(), *pruned])
        arms = {"untouched": arm(before, before, args.seed, prompts=len(test))}
        for (label, heads), settled in zip(sets.items(), after, strict=True):
            arms[label] = arm(before, settled, args.seed, heads=[str(h) for h in heads])
        results["tests"][name] = arms
        for label, found_rates in arms.items():
            print(name, label, *(round(100 * found_rates[rate]) for rate in RATES), flush=True)
        save(results, args.out)
        if args.rivals:
            arms |= rivals(model, development, test, before, args.seed)
    results["cpu_seconds"] = round(time.process_time() - began)
    save(results, args.out)


if __name__ == "__main__":
    main()
