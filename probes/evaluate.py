"""How well a model does under interventions: answers to prompts, and the loss on plain text.

Answers are read off the rows that predict them, the right answer given (teacher forcing). A
right answer there is exactly one that greedy decoding would have written: as long as every token
is right, decoding sees the same tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from headscope.probes.apply import applied
from headscope.probes.errors import HeadscopeError
from headscope.probes.intervene import INTERVENTIONS
from headscope.probes.prompts import Prompt
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model

Variant = Sequence[Spec]
"""Specs that are applied together; empty for the untouched model."""


@dataclass(frozen=True)
class Answers:
    """V variants of a model on P prompts.

    Attributes:
        right: whether greedy decoding writes the whole answer. [V, P]
        logprob: log-probability of the answer in nats, mean over its tokens. [V, P]
    """

    right: NDArray[np.bool_]
    logprob: NDArray[np.float64]


@torch.no_grad()
def answers(
    model: Model,
    prompts: Sequence[Prompt],
    variants: Sequence[Variant],
    done: Callable[[int], object] = lambda count: None,
) -> Answers:
    """Ask every prompt under every variant.

    Variants that act on generated rows only share one prefill of the prompt.

    Args:
        model: the model.
        prompts: prompts with an answer.
        variants: what to apply; `()` for the untouched model.
        done: called after every prompt with the number done.

    Raises:
        HeadscopeError: a prompt has no answer.
    """
    right = np.zeros((len(variants), len(prompts)), bool)
    logprob = np.zeros(right.shape)
    for p, prompt in enumerate(prompts):
        ids, target = answer_tokens(model, prompt)
        cache = prefill(model, prompt) if any(map(late, variants)) else None
        for v, variant in enumerate(variants):
            with applied(model, *variant, prompt=prompt.answer_rows[0] + 1):
                if late(variant):
                    out = model.hf(input_ids=ids, past_key_values=resumed(cache), use_cache=True)
                    logits = out.logits[0].float()
                else:
                    logits = _logits(model, prompt)
            right[v, p] = bool((logits.argmax(-1) == target).all())
            logprob[v, p] = float(logits.log_softmax(-1).gather(-1, target[:, None]).mean())
        done(p + 1)
    return Answers(right, logprob)


@torch.no_grad()
def losses(model: Model, texts: Sequence[Prompt], variants: Sequence[Variant]) -> NDArray[np.float64]:
    """Mean loss in nats per predicted token of each text; its exponential is the perplexity. [V, P]"""
    found = np.zeros((len(variants), len(texts)))
    for p, text in enumerate(texts):
        inputs = model.inputs([text])
        target = inputs["input_ids"][0, 1:]
        for v, variant in enumerate(variants):
            with applied(model, *variant, prompt=len(text)):
                logits = model.hf(**inputs, use_cache=False).logits[0, :-1].float()
            found[v, p] = float(torch.nn.functional.cross_entropy(logits, target))
    return found


def late(variant: Variant) -> bool:
    """Whether the rows before the answer are those of the untouched model."""
    return all(s.positions == "generated" and not INTERVENTIONS[s.method].stateful for s in variant)


def _logits(model: Model, prompt: Prompt) -> Tensor:
    """Logits of the rows that predict the answer, in one pass over everything. [answer, vocabulary]"""
    rows = torch.tensor(prompt.answer_rows, device=model.device)
    logits: Tensor = model.hf(**model.inputs([prompt]), use_cache=False, logits_to_keep=rows).logits[0]
    return logits.float()


def answer_tokens(model: Model, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """The tokens in the rows that predict the answer [1, answer], and the answer's own [answer].

    Raises:
        HeadscopeError: there is no answer.
    """
    if prompt.answer is None:
        raise HeadscopeError(f"A {prompt.task!r} prompt has no answer to be right or wrong about.")
    start, stop = prompt.answer
    ids = torch.tensor(prompt.ids[start - 1 : stop], device=model.device)
    return ids[None, :-1], ids[1:]


def prefill(model: Model, prompt: Prompt) -> Any:
    """The cache before the first row that predicts the answer."""
    cache = DynamicCache(config=model.hf.config)
    ids = torch.tensor([prompt.ids[: prompt.answer_rows[0]]], device=model.device)
    if ids.shape[1]:
        model.hf(**model.inputs([prompt], ids), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def resumed(cache: Any, batch: int = 1) -> Any:
    """A cache to go on from, for `batch` sequences alike; the given one stays as it is.

    Nothing is copied: a growing cache makes new tensors.
    """
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in twin.layers if batch > 1 else ():
        if layer.keys is not None:
            layer.keys = layer.keys.expand(batch, -1, -1, -1)
            layer.values = layer.values.expand(batch, -1, -1, -1)
    return twin
