"""What a model answers: which of two answers it gives to each prompt of a task of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from headscope.probes.forward import answer_logits, batches, contrast_of
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


@dataclass(frozen=True)
class Trials:
    """The model's greedy first answer token for each of P prompts.

    Attributes:
        token: what it would say. [P]
        right: whether that counts as right (as the memory answer of a `conflict`). [P]
        wrong: whether it counts as wrong (the context answer); False for anything else too. [P]
        p_right: probability of all that counts as right. [P]
        p_wrong: probability of all that counts as wrong. [P]
    """

    token: NDArray[np.int64]
    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    p_right: NDArray[np.float64]
    p_wrong: NDArray[np.float64]


@torch.no_grad()
def trials(model: Model, prompts: Sequence[Prompt]) -> Trials:
    """Run every prompt up to its answer and see what comes next.

    Raises:
        HeadscopeError: no prompts, or one without an answer or a contrast.
    """
    n = len(prompts)
    token, right, wrong = np.zeros(n, np.int64), np.zeros(n, bool), np.zeros(n, bool)
    p_right, p_wrong = np.zeros(n), np.zeros(n)
    for batch in batches(model, prompts):
        logits = answer_logits(model, batch.ids, batch.rows)
        said, p = logits.argmax(-1).tolist(), logits.double().softmax(-1)
        for row, i in enumerate(batch.index):
            contrast = contrast_of(prompts[i])
            token[i] = said[row]
            right[i], wrong[i] = said[row] in contrast.right, said[row] in contrast.wrong
            p_right[i] = float(p[row, list(contrast.right)].sum())
            p_wrong[i] = float(p[row, list(contrast.wrong)].sum())
    return Trials(token, right, wrong, p_right, p_wrong)


def known(model: Model, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Those prompts whose first answer token the model gets right.

    Raises:
        HeadscopeError: see `trials`.
    """
    return [p for p, right in zip(prompts, trials(model, prompts).right, strict=True) if right]
