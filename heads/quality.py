"""What a model still gets right under a policy: answers to prompts, and prediction of plain text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from headscope.heads import intervals
from headscope.heads.certificate import Measured
from headscope.heads.policy import Policy
from headscope.probes import Model, Prompt

ROWS = 512  # rows of a text window whose predictions are compared; all rows would need n x vocabulary


@dataclass(frozen=True)
class Answer:
    """One prompt under one policy.

    Attributes:
        right: whether greedy decoding gives exactly the answer. Read off one teacher-forced prefill,
            which decides the same: up to the first wrong token both have seen the same text.
        logprob: log-probability of the whole answer, nats.
    """

    right: bool
    logprob: float


@torch.no_grad()
def answer(model: Model, policy: Policy | None, prompt: Prompt) -> Answer:
    """How `model` answers `prompt`, with full attention where `policy` is None."""
    start, stop = prompt.answer or (1, 1)
    wanted = torch.tensor(prompt.ids[start:stop])
    logits = _logits(model, policy, prompt, torch.tensor(prompt.answer_rows))
    logprob = logits.log_softmax(-1).gather(-1, wanted[:, None].to(logits.device))
    return Answer(bool((logits.argmax(-1).cpu() == wanted).all()), float(logprob.sum()))


@dataclass(frozen=True)
class TextLoss:
    """One text window: mean cross-entropy with full attention and under the policy, and
    KL(full || policy), nats per token."""

    full: float
    policy: float
    kl: float


@torch.no_grad()
def text_loss(model: Model, policies: Sequence[Policy], prompt: Prompt, seed: int) -> list[TextLoss]:
    """Compare next-token predictions on a text window; one result per policy."""
    n = len(prompt)
    rows = np.random.default_rng(seed).permutation(n - 1)[:ROWS]
    at = torch.from_numpy(np.sort(rows))
    wanted = torch.tensor(prompt.ids)[at + 1]
    full = _logits(model, None, prompt, at).log_softmax(-1)
    found = []
    for policy in policies:
        cut = _logits(model, policy, prompt, at).log_softmax(-1)
        kl = (full.exp() * (full - cut)).sum(-1).mean()
        before, after = (float(-x.gather(-1, wanted[:, None].to(x.device)).mean()) for x in (full, cut))
        found.append(TextLoss(before, after, float(kl)))
    return found


def _logits(model: Model, policy: Policy | None, prompt: Prompt, rows: Tensor) -> Tensor:
    """Logits of some rows of one prefill, float32. [R, vocabulary]"""
    inputs = model.inputs([prompt])
    with policy.attach(model) if policy else nullcontext():
        out = model.hf(**inputs, use_cache=False, logits_to_keep=rows.to(model.device))
    logits: Tensor = out.logits[0].float()
    return logits


def share(hits: Sequence[bool]) -> Measured:
    """A proportion with its exact 95% interval."""
    low, high = intervals.share(hits)
    return Measured(value=sum(hits) / len(hits), low=low, high=high, count=len(hits))


def paired(full: Sequence[bool], policy: Sequence[bool]) -> Measured:
    """Difference of two proportions over the same prompts, 95% interval of Agresti & Min (2005).

    Half a prompt is added to each of the two kinds that differ, so that the interval does not
    shrink to nothing where none was seen.
    """
    n = len(full)
    lost = sum(a and not b for a, b in zip(full, policy, strict=True))
    won = sum(b and not a for a, b in zip(full, policy, strict=True))
    centre = (won - lost) / (n + 2)
    spread = 1.96 * math.sqrt(won + lost + 1 - (won - lost) ** 2 / (n + 2)) / (n + 2)
    low, high = max(-1.0, centre - spread), min(1.0, centre + spread)
    return Measured(value=(won - lost) / n, low=low, high=high, count=n)


def mean(values: Iterable[float]) -> Measured:
    """A mean with its 95% interval by Student's t; one value alone has no interval but itself."""
    x: NDArray[np.float64] = np.fromiter(values, np.float64)
    half = stats.sem(x) * stats.t.ppf(0.975, len(x) - 1) if len(x) > 1 else 0.0
    centre = float(x.mean())
    return Measured(value=centre, low=centre - half, high=centre + half, count=len(x))
