"""How much attention rests on sinks, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headscope.probes import Estimate, Observation, over_prompts

EPSILON = 0.3  # Gu et al. 2024
_FIRST = 4  # keys this early are not hidden


def first_token_mass(seen: Sequence[Observation]) -> Estimate:
    """Mean mass of a row on the first token, over sampled rows. 0 ... 1. [L, H]"""
    return over_prompts([o.mean["first_1"] for o in seen], [o.var["first_1"] for o in seen])


def sink_rate(seen: Sequence[Observation], epsilon: float = EPSILON) -> Estimate:
    """Share of texts on which the head's mean mass on the first token exceeds `epsilon`.

    Sink_1^eps of Gu et al. 2024 (arXiv 2410.10781) with T = 64 and eps = 0.3, per head instead of
    averaged over heads: the mean over the first 64 rows, the first row's own 1 included, is
    compared with eps for every text. Causal attention makes the first 64 rows of a longer text
    those of the text cut after 64 tokens. 0 ... 1. [L, H]
    """
    return over_prompts([o.head["prefix_first"] > epsilon for o in seen])


@dataclass(frozen=True)
class HiddenSinks:
    """The strongest sink that is not at the start.

    Attributes:
        mass: mean mass per row that sees it. [L, H]
        token: the token id it sat on in the text where it was strongest. [L, H]
        position: its position there. [L, H]
    """

    mass: Estimate
    token: NDArray[np.int64]
    position: NDArray[np.int64]


def hidden_sinks(seen: Sequence[Observation]) -> HiddenSinks:
    """The heaviest key past the first four tokens, by mass received per row that sees it.

    The score of a key is ACT's (Yu et al. 2024): its mean attention over the queries that can
    see it, here over the sampled ones. 0 ... 1.
    """
    masses, tokens, positions = [], [], []
    for o in seen:
        late = np.where(o.head["receiver_key"] >= _FIRST, o.head["receiver_mass"], 0.0)
        at = late.argmax(-1)[..., None]
        masses.append(np.take_along_axis(late, at, -1)[..., 0])
        positions.append(np.take_along_axis(o.head["receiver_key"], at, -1)[..., 0])
        tokens.append(np.asarray(o.prompt.ids)[positions[-1]])
    best = np.stack(masses).argmax(0)[None]
    return HiddenSinks(
        over_prompts(masses),
        np.take_along_axis(np.stack(tokens), best, 0)[0],
        np.take_along_axis(np.stack(positions), best, 0)[0],
    )
