"""How often 95% intervals hold the truth, by the number of prompts: simulated worlds, known truth.

    python benchmarks/coverage.py --out benchmarks/results/coverage.json

`exact` is the interval of a share. `bootstrap` is that of a difference as `prove` has it: prompts lost
without a role's heads, less the mean of three random draws. `paired` is the certificate's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headscope.heads import intervals
from headscope.heads.quality import paired

COUNTS = (8, 10, 20, 40, 100)
LOST = ((0.9, 0.05), (0.5, 0.3), (0.2, 0.1))  # with a role's heads, and with random ones
DRAWS = 3
Interval = tuple[float, float]
Made = Callable[[np.random.Generator, int, float, float], tuple[Interval, float]]


def exact(rng: np.random.Generator, n: int, lost: float, random: float) -> tuple[Interval, float]:
    return intervals.share(rng.random(n) < lost), lost


def bootstrap(rng: np.random.Generator, n: int, lost: float, random: float) -> tuple[Interval, float]:
    control: NDArray[np.float64] = (rng.random((DRAWS, n)) < random).mean(0)
    gap = (rng.random(n) < lost) - control
    return intervals.mean(gap, int(rng.integers(1 << 31))), lost - random


def certificate(rng: np.random.Generator, n: int, lost: float, random: float) -> tuple[Interval, float]:
    """`lost` and `random` are the shares wrong under a policy and with full attention."""
    full, cut = (rng.random(n) >= share for share in (random, lost))
    found = paired(full.tolist(), cut.tolist())
    return (found.low, found.high), random - lost


METHODS: dict[str, Made] = {"exact": exact, "bootstrap": bootstrap, "paired": certificate}


def coverage(made: Made, n: int, lost: float, random: float, worlds: int, seed: int) -> dict[str, float]:
    """Share of the worlds whose interval holds the truth, of those that have one."""
    rng = np.random.default_rng(seed)
    held = []
    for _ in range(worlds):
        (low, high), truth = made(rng, n, lost, random)
        if low == low:
            held.append(low - 1e-9 <= truth <= high + 1e-9)
    return {"covers": round(float(np.mean(held)), 3), "without": round(1 - len(held) / worlds, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for name, made in METHODS.items():
        for n in COUNTS:
            for lost, random in LOST:
                found = coverage(made, n, lost, random, args.worlds, args.seed)
                rows.append({"interval": name, "prompts": n, "lost": lost, "random": random} | found)
                print(*rows[-1].values(), flush=True)
    if args.out:
        args.out.write_text(
            json.dumps({"worlds": args.worlds, "seed": args.seed, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
