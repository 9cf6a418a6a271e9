"""Which of two answers is given, before and after an intervention, with its controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from headscope.heads import intervals
from headscope.heads.effect import control
from headscope.probes import HeadId, Model, Prompt, Spec, trials_under


def told(
    model: Model,
    spec: Spec,
    prompts: Sequence[Prompt],
    *,
    draws: int = 3,
    seed: int = 0,
    avoid: Sequence[HeadId] = (),
) -> pd.DataFrame:
    """The rates of right, wrong and other answers to prompts of a task of pairs.

    In the `conflict` task right is what is true, wrong what the context states. Answers are told
    by their first token.

    Args:
        model: the model.
        spec: the intervention.
        prompts: with counterfactuals, none of which the spec has learned from.
        draws: random head sets of the same layers.
        seed: of the draws.
        avoid: further heads that the draws leave out.

    Returns:
        One row for `untouched`, `intervention` and `random` (all draws together; left out where a
        layer has too few other heads); `right`, `wrong`, `other` in 0 ... 1 with their exact 95%
        interval `_low`, `_high` (none over draws, which share their prompts).

    Raises:
        HeadscopeError: no prompts, or one without a counterfactual.
    """
    drawn = [c for i in range(draws) if (c := control(model, spec, avoid, [seed, i]))]
    before, after, *controls = trials_under(model, prompts, [(), (spec,), *((c,) for c in drawn)])
    rows = []
    for what, group in (("untouched", [before]), ("intervention", [after]), ("random", controls)):
        if group:
            hits = {"right": np.stack([t.right for t in group]), "wrong": np.stack([t.wrong for t in group])}
            hits["other"] = ~(hits["right"] | hits["wrong"])
            row: dict[str, object] = {"what": what}
            for name, found in hits.items():
                low, high = intervals.share(found[0]) if len(group) == 1 else (float("nan"),) * 2
                row |= {name: float(found.mean()), f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    return pd.DataFrame(rows)
