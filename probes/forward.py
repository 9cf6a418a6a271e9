"""Forward passes over many short prompts, of which only the row that answers is wanted.

Prompts of different lengths are padded on the right: under a causal mask no row before the
padding can see it, so no attention mask is needed and every architecture agrees with itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headscope.probes.errors import HeadscopeError, Refused
from headscope.probes.prompts import Contrast, Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model

_TOKENS = 2048  # of one batch, padding included


@dataclass(frozen=True)
class Batch:
    """Prompts side by side, up to their answer. B prompts, T tokens of the longest.

    Attributes:
        index: their places in the list they came from. [B]
        prompts: themselves.
        ids: token ids, padded on the right. [B, T]
        rows: the row of each that predicts the answer's first token. [B]
        pixels: what the model is called with besides, for prompts that show pictures.
        twins: whether it is the counterfactuals that are run.
    """

    index: list[int]
    prompts: list[Prompt]
    ids: Tensor
    rows: Tensor
    pixels: dict[str, Tensor]
    twins: bool = False

    @classmethod
    def of(cls, model: Model, prompts: Sequence[Prompt], index: Sequence[int], twins: bool = False) -> Batch:
        chosen = [prompts[i] for i in index]
        texts = [contrast_of(p).ids if twins else p.ids[: p.answer_rows[0] + 1] for p in chosen]
        ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        rows = torch.tensor([len(text) - 1 for text in texts], device=model.device)
        ids, pixels = _inputs(model, chosen, ids, twins)
        return cls(list(index), chosen, ids, rows, pixels, twins)

    def twin(self, model: Model) -> Batch:
        """The counterfactuals of the same prompts, token by token beside them."""
        return Batch.of(model, self.prompts, range(len(self.prompts)), twins=True)

    def times(self, model: Model, count: int) -> Batch:
        """Every sequence `count` times, one after another; pictures are looked at every time."""
        prompts = [prompt for prompt in self.prompts for _ in range(count)]
        ids, rows = (t.repeat_interleave(count, 0) for t in (self.ids, self.rows))
        pixels = _inputs(model, prompts, ids, self.twins)[1] if self.pixels else {}
        return Batch([i for i in self.index for _ in range(count)], prompts, ids, rows, pixels, self.twins)

    def logits(self, model: Model) -> Tensor:
        """Logits of the answering rows, in float32. [B, V]"""
        return answer_logits(model, self.ids, self.rows, **self.pixels)

    def last(self, values: Tensor) -> Tensor:
        """Of `values` [B, T, ...] the answering rows. [B, ...]"""
        return values[torch.arange(len(self.prompts), device=values.device), self.rows.to(values.device)]


def _inputs(
    model: Model, prompts: Sequence[Prompt], ids: Tensor, twins: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Token ids on the model's device, and the pixels of the prompts or of their counterfactuals."""
    if twins:
        pictures = ((p, contrast_of(p).pictures) for p in prompts)
        prompts = [replace(p, pictures=other) if other else p for p, other in pictures]
    inputs = model.inputs(prompts, ids)
    return inputs.pop("input_ids"), inputs


def contrast_of(prompt: Prompt) -> Contrast:
    """The prompt's counterfactual, or an error that says which tasks have one."""
    if prompt.contrast is None:
        raise HeadscopeError(
            f"A {prompt.task!r} prompt has no counterfactual, so nothing can be patched into it; "
            "use a task of pairs, such as 'ioi' or 'conflict'."
        )
    return prompt.contrast


def batches(
    model: Model, prompts: Sequence[Prompt], tokens: int = _TOKENS, *, pictures: bool = False
) -> Iterator[Batch]:
    """All prompts in batches of at most `tokens` tokens, similar lengths together.

    Args:
        model: who is to read them.
        prompts: with answers.
        tokens: padding included.
        pictures: whether the caller hands the pixels on to the model.

    Raises:
        HeadscopeError: no prompts, or one without an answer.
        Refused: prompts with pictures that would not be looked at.
    """
    if not prompts:
        raise HeadscopeError("There are no prompts to run; the list is empty.")
    silent = next((p for p in prompts if p.answer is None), None)
    if silent:
        raise HeadscopeError(f"A {silent.task!r} prompt has no answer, so there is nothing to measure.")
    if not pictures and any(p.pictures for p in prompts):
        raise Refused(f"{prompts[0].task!r} prompts show pictures, and this method reads text alone.")
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].answer_rows[0])
    waiting: list[int] = []
    for i in order:
        if waiting and (len(waiting) + 1) * (prompts[i].answer_rows[0] + 1) > tokens:
            yield Batch.of(model, prompts, waiting)
            waiting = []
        waiting.append(i)
    yield Batch.of(model, prompts, waiting)


@contextmanager
def only_rows(model: Model, rows: Tensor) -> Iterator[None]:
    """Let the language-model head see one row of each sequence, so that logits are [B, 1, V]."""
    head: Any = model.hf.get_output_embeddings()

    def gather(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        return (hidden[torch.arange(len(hidden), device=hidden.device), rows.to(hidden.device)][:, None],)

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


def answer_logits(model: Model, ids: Tensor, rows: Tensor, **inputs: Any) -> Tensor:
    """Logits of one row of each sequence, in float32. [B, V]"""
    with only_rows(model, rows):
        logits: Tensor = model.hf(input_ids=ids, use_cache=False, **inputs).logits
    return logits[:, 0].float()


@torch.no_grad()
def all_answer_logits(model: Model, prompts: Sequence[Prompt]) -> Tensor:
    """Logits of every prompt's answering row, in float32 on the CPU. [P, V]

    Raises:
        HeadscopeError: see `batches`.
    """
    found = torch.empty(len(prompts), model.geometry.vocabulary)
    for batch in batches(model, prompts, pictures=True):
        found[batch.index] = batch.logits(model).cpu()
    return found
