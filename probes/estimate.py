"""Means with error bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Estimate:
    """A score per head and its standard error, both [L, H]; NaN where there was nothing to see."""

    value: NDArray[np.float64]
    se: NDArray[np.float64]


def over_prompts(means: Sequence[ArrayLike], variances: Sequence[ArrayLike] | None = None) -> Estimate:
    """Average per-prompt means over prompts.

    The squared standard error is the larger of two: the scatter of the prompt means over their
    number (prompts differ), and the mean sampling variance over their number (each prompt saw
    only some of its rows). The second is a floor that does not depend on a lucky small scatter
    of a few prompts.

    Args:
        means: one array [L, H] per prompt; NaN entries are left out.
        variances: sampling variance of each mean, same shapes; None for exact means.

    Returns:
        Estimate. The standard error is NaN where a single exact prompt leaves it unknown.
    """
    stack = np.stack([np.asarray(m, np.float64) for m in means])
    defined = np.isfinite(stack)
    count = defined.sum(0)
    value = _divide(np.where(defined, stack, 0.0).sum(0), count)
    scatter = np.where(defined, stack - value, 0.0)
    between = _divide((scatter**2).sum(0), (count - 1) * count, enough=count > 1)
    if variances is None:
        return Estimate(value, np.sqrt(between))
    noise = np.stack([np.asarray(v, np.float64) for v in variances])
    within = _divide(np.where(defined, noise, 0.0).sum(0), count**2)
    # A prompt of which every row was read has no sampling error, which alone is no error of 0.
    return Estimate(value, np.sqrt(np.fmax(between, np.where(within > 0, within, np.nan))))


def _divide(
    total: NDArray[np.float64], by: NDArray[np.int64], enough: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    where = by > 0 if enough is None else enough
    return np.divide(total, by, out=np.full(total.shape, np.nan), where=where)
