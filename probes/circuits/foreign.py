"""Negatives that do not do the task: what decides the answer is replaced by what another prompt has there.

For `ioi` that is the published negative, three different names. The counterfactuals will not do where
they are prompts of the same task: then what the task's heads say on both, taken together, is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from headscope.probes.errors import HeadscopeError
from headscope.probes.forward import contrast_of
from headscope.probes.prompts import Prompt


def foreign(prompts: Sequence[Prompt], seed: int = 0) -> list[Prompt]:
    """The same prompts, each with another counterfactual.

    Where a prompt and its counterfactual differ stand the tokens that another prompt has where it
    differs from its own, none of which occur in this prompt.

    Args:
        prompts: with counterfactuals.
        seed: which other prompts.

    Raises:
        HeadscopeError: no other prompt has such tokens.
    """
    rng = np.random.default_rng(seed)
    places = [_places(prompt) for prompt in prompts]
    offered = [tuple(p.ids[i] for i in where) for p, where in zip(prompts, places, strict=True)]
    found = []
    for prompt, where in zip(prompts, places, strict=True):
        contrast = contrast_of(prompt)
        known = {*prompt.ids, *contrast.ids}
        fit = sorted({t for t in offered if len(t) == len(where) and not known & set(t)})
        if not fit:
            raise HeadscopeError(
                f"No other {prompt.task!r} prompt has tokens to put where this one and its counterfactual "
                "differ; give more prompts, or negatives='counterfactual'."
            )
        ids = list(contrast.ids)
        for place, token in zip(where, fit[rng.integers(len(fit))], strict=True):
            ids[place] = token
        found.append(replace(prompt, contrast=replace(contrast, ids=tuple(ids))))
    return found


def _places(prompt: Prompt) -> list[int]:
    """Where a prompt and its counterfactual differ."""
    ids = contrast_of(prompt).ids
    return [i for i, (a, b) in enumerate(zip(prompt.ids, ids, strict=False)) if a != b]
