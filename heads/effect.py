"""What an intervention does, next to what it has to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headscope.heads import intervals
from headscope.heads.controls import random_heads
from headscope.probes import HeadId, Model, Prompt, Spec, Variant, answers, elsewhere, losses


def effect(
    model: Model,
    spec: Spec,
    prompts: Sequence[Prompt],
    texts: Sequence[Prompt] = (),
    *,
    draws: int = 3,
    seed: int = 0,
    avoid: Sequence[HeadId] = (),
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> pd.DataFrame:
    """Before, after, and the controls: the opposite change, and the same one on random heads.

    Args:
        model: the model.
        spec: the intervention.
        prompts: prompts with answers, none of which the spec has learned from.
        texts: plain text for the loss; none leaves it out.
        draws: random head sets of the same layers.
        seed: of the draws.
        avoid: further heads that the draws leave out.
        progress: called with the prompts done and all of them.

    Returns:
        One row for `untouched`, `intervention`, `opposite`, and `random` (mean over the draws; left
        out where a layer has too few other heads). `right`: share of answers, exact 95% interval
        `_low`, `_high` (none for the mean over draws). `logprob`: nats per answer token, with `_se`.
        `change`: of that against the untouched model, paired, with `_se`. `loss`: nats per token of
        the texts; `loss_change`, paired, with `_se`.
    """
    variants: dict[str, list[Variant]] = {
        "untouched": [()],
        "intervention": [(spec,)],
        "opposite": [(spec.opposite(),)],
    }
    drawn = [c for i in range(draws) if (c := control(model, spec, avoid, [seed, i]))]
    variants |= {"random": [(c,) for c in drawn]} if drawn else {}
    flat = [v for group in variants.values() for v in group]
    found = answers(model, prompts, flat, lambda n: progress(n, len(prompts)))
    loss = losses(model, texts, flat) if texts else np.full((len(flat), 1), np.nan)
    rows, at = [], 0
    for name, group in variants.items():
        mine = slice(at, at := at + len(group))
        rows.append({"what": name} | _row(found.right, found.logprob, loss, mine))
    return pd.DataFrame(rows)


def control(model: Model, spec: Spec, avoid: Sequence[HeadId], seed: Sequence[int]) -> Spec | None:
    """The same intervention on random heads of the same layers."""
    other = random_heads(spec.heads, model.geometry.heads, avoid, np.random.default_rng(seed))
    return elsewhere(model, spec, other) if other else None


def _row(
    right: NDArray[np.bool_], logprob: NDArray[np.float64], loss: NDArray[np.float64], mine: slice
) -> dict[str, object]:
    hits, word, text = right[mine], logprob[mine].mean(0), loss[mine].mean(0)
    low, high = intervals.share(hits[0]) if len(hits) == 1 else (float("nan"),) * 2
    change, rise = word - logprob[0], text - loss[0]
    return {
        "right": float(hits.mean()), "right_low": low, "right_high": high,
        "logprob": float(word.mean()), "logprob_se": intervals.standard_error(word),
        "change": float(change.mean()), "change_se": intervals.standard_error(change),
        "loss": float(text.mean()),
        "loss_change": float(rise.mean()), "loss_change_se": intervals.standard_error(rise),
    }  # fmt: skip
