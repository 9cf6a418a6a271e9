"""Forward passes over many short prompts, of which only the row that answers is wanted.

Prompts of different lengths are padded on the right: under a causal mask no row before the
padding can see it, so no attention mask is needed and every architecture agrees with itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    """

    index: list[int]
    prompts: list[Prompt]
    ids: Tensor
    rows: Tensor
    pixels: dict[str, Tensor]

    @classmethod
    def of(cls, model: Model, prompts: Sequence[Prompt], index: Sequence[int], twins: bool = False) -> Batch:
        chosen = [prompts[i] for i in index]
        texts = [contrast_of(p).ids if twins else p.ids[: p.answer_rows[0] + 1] for p in chosen]
        ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        rows = torch.tensor([len(text) - 1 for text in texts])
        inputs = model.inputs(chosen, ids)
        return cls(list(index), chosen, inputs.pop("input_ids"), rows.to(model.device), inputs)

    def twin(self, model: Model) -> Batch:
        """The counterfactuals of the same prompts, token by token beside them.

        Raises:
            Refused: prompts with pictures, of which a counterfactual says nothing.
        """
        if self.pixels:
            raise Refused(f"{self.prompts[0].task!r} prompts show pictures; patching is for text alone.")
        return Batch.of(model, self.prompts, range(len(self.prompts)), twins=True)

    def last(self, values: Tensor) -> Tensor:
        """Of `values` [B, T, ...] the answering rows. [B, ...]"""
        return values[torch.arange(len(self.prompts), device=values.device), self.rows.to(values.device)]


def contrast_of(prompt: Prompt) -> Contrast:
    """The prompt's counterfactual, or an error that says which tasks have one."""
    if prompt.contrast is None:
        raise HeadscopeError(
            f"A {prompt.task!r} prompt has no counterfactual, so nothing can be patched into it; "
            "use a task of pairs, such as 'ioi' or 'conflict'."
        )
    return prompt.contrast


def batches(model: Model, prompts: Sequence[Prompt], tokens: int = _TOKENS) -> Iterator[Batch]:
    """All prompts in batches of at most `tokens` tokens, similar lengths together.

    Raises:
        HeadscopeError: no prompts, or one without an answer.
    """
    if not prompts:
        raise HeadscopeError("There are no prompts to run; the list is empty.")
    silent = next((p for p in prompts if p.answer is None), None)
    if silent:
        raise HeadscopeError(f"A {silent.task!r} prompt has no answer, so there is nothing to measure.")
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
    for batch in batches(model, prompts):
        found[batch.index] = answer_logits(model, batch.ids, batch.rows, **batch.pixels).cpu()
    return found
