"""What a model answers: which of two answers it gives to each prompt of a task of pairs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from headscope.probes.apply import applied
from headscope.probes.evaluate import Variant, late
from headscope.probes.forward import Batch, batches, contrast_of
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

    @classmethod
    def empty(cls, count: int) -> Trials:
        """Room for `count` prompts."""
        return cls(
            np.zeros(count, np.int64), np.zeros(count, bool), np.zeros(count, bool),
            np.zeros(count), np.zeros(count),
        )  # fmt: skip

    @classmethod
    def of(cls, prompts: Sequence[Prompt], logits: Tensor) -> Trials:
        """What these logits say to each prompt. [P, V]"""
        made = cls.empty(len(prompts))
        made.take(range(len(prompts)), prompts, logits)
        return made

    def take(self, index: Sequence[int], prompts: Sequence[Prompt], logits: Tensor) -> None:
        """Enter what came after some of the prompts, and which they are. [B, V]"""
        said, p = logits.argmax(-1).tolist(), logits.double().softmax(-1)
        for row, (i, prompt) in enumerate(zip(index, prompts, strict=True)):
            contrast = contrast_of(prompt)
            self.token[i] = said[row]
            self.right[i], self.wrong[i] = said[row] in contrast.right, said[row] in contrast.wrong
            self.p_right[i] = float(p[row, list(contrast.right)].sum())
            self.p_wrong[i] = float(p[row, list(contrast.wrong)].sum())


def trials(model: Model, prompts: Sequence[Prompt]) -> Trials:
    """Run every prompt up to its answer and see what comes next.

    Raises:
        HeadscopeError: no prompts, or one without an answer or a contrast.
    """
    return trials_under(model, prompts, [()])[0]


@torch.no_grad()
def trials_under(model: Model, prompts: Sequence[Prompt], variants: Sequence[Variant]) -> list[Trials]:
    """The same under interventions; `()` is the untouched model.

    Variants that act on generated rows only share one prefill of the prompts, and cost a single
    row each.

    Raises:
        HeadscopeError: see `trials`.
        Refused: a spec for another model.
    """
    found = [Trials.empty(len(prompts)) for _ in variants]
    for batch in batches(model, prompts, pictures=True):
        # Positions of a sequence with pictures are the model's own affair, so those go in one piece.
        shares = not batch.pixels and any(variant and late(variant) for variant in variants)
        cached = _Cached(model, batch) if shares else None
        for variant, into in zip(variants, found, strict=True):
            lengths = (batch.rows + 1).tolist()
            with applied(model, *variant, prompt=lengths) if variant else nullcontext():
                logits = cached.logits() if cached and variant and late(variant) else batch.logits(model)
            into.take(batch.index, batch.prompts, logits)
    return found


class _Cached:
    """A batch whose prompts have been read but for their last token. Padded on the left."""

    def __init__(self, model: Model, batch: Batch) -> None:
        self.model = model
        width = batch.ids.shape[1]
        shift = width - 1 - batch.rows  # how far each prompt moves to the right
        at = torch.arange(width, device=batch.ids.device) - shift[:, None]
        self.mask = (at >= 0).long()
        self.place = at.clamp_min(0)
        self.ids = batch.ids.gather(1, self.place)
        self.cache = DynamicCache(config=model.hf.config)
        if width > 1:
            model.decoder(
                input_ids=self.ids[:, :-1], attention_mask=self.mask[:, :-1],
                position_ids=self.place[:, :-1], past_key_values=self.cache, use_cache=True,
            )  # fmt: skip

    def logits(self) -> Tensor:
        """Of the last token, with whatever is applied at the moment. [B, V]"""
        found: Tensor = self.model.hf(
            input_ids=self.ids[:, -1:], attention_mask=self.mask, position_ids=self.place[:, -1:],
            past_key_values=copy.deepcopy(self.cache), use_cache=True,
        ).logits  # fmt: skip
        return found[:, -1].float()


def known(model: Model, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Those prompts whose first answer token the model gets right.

    Raises:
        HeadscopeError: see `trials`.
    """
    return [p for p, right in zip(prompts, trials(model, prompts).right, strict=True) if right]
