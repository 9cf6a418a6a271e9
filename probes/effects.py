"""What patching does to what a model says, head by head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.estimate import Estimate, over_prompts
from headscope.probes.forward import contrast_of
from headscope.probes.geometry import HeadId
from headscope.probes.prompts import Prompt

Metric = Literal["logit_diff", "right", "wrong"]
METRICS: tuple[Metric, ...] = ("logit_diff", "right", "wrong")


@dataclass(frozen=True)
class Effects:
    """The change that patching each head makes. M metrics, P prompts, L layers, H query heads.

    The metrics are, in nats: `right` and `wrong`, the log-probability of all first answer tokens
    that count as right (wrong), and `logit_diff`, the first minus the second, which for single
    tokens is the difference of their logits.

    Attributes:
        method: how it was found.
        clean: of the untouched model on the prompts. [M, P]
        counterfactual: on their counterfactuals, the answers' meaning unchanged. [M, P]
        change: patched minus clean; NaN for heads that were not patched. [M, P, L, H]
    """

    method: str
    clean: NDArray[np.float64]
    counterfactual: NDArray[np.float64]
    change: NDArray[np.float64]

    def estimate(self, metric: Metric = "logit_diff") -> Estimate:
        """Mean change over prompts in nats, with its standard error. [L, H]"""
        return over_prompts(list(self.change[METRICS.index(metric)]))

    def share(self, metric: Metric = "logit_diff") -> Estimate:
        """The mean change over that of replacing everything: 0 no effect, 1 all of it. [L, H]

        A ratio of means, whose standard error follows from linearising it.
        """
        i = METRICS.index(metric)
        total = (self.counterfactual - self.clean)[i]
        value = self.change[i].mean(0) / total.mean()
        spread = over_prompts(list(self.change[i] - value * total[:, None, None])).se
        return Estimate(value, spread / abs(total.mean()))

    def top(self, count: int, metric: Metric = "logit_diff") -> list[HeadId]:
        """The heads with the largest absolute mean change, largest first; ties by position."""
        size = np.nan_to_num(np.abs(self.estimate(metric).value), nan=-1.0)
        order = np.argsort(-size, axis=None, kind="stable")[:count]
        return [HeadId(int(i) // size.shape[1], int(i) % size.shape[1]) for i in order]


def measure(logits: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """All metrics of each prompt's answer logits [B, V]; differentiable. [M, B]"""
    logp = logits.log_softmax(-1)
    right, wrong = (
        torch.stack([logp[b, list(ids)].logsumexp(0) for b, ids in enumerate(answers)])
        for answers in zip(*((contrast_of(p).right, contrast_of(p).wrong) for p in prompts), strict=True)
    )
    return torch.stack([right - wrong, right, wrong])
