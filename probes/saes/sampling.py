"""Text in a model's own words: what it writes when it is given nothing but the way a text begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from headscope.probes.errors import HeadscopeError

if TYPE_CHECKING:
    from headscope.probes.model import Model

_LIKELIEST = 100  # tokens that may be drawn; the tail of a small model's distribution is noise
_CACHE = 20 << 30  # bytes of keys and values that one batch may take on a GPU, where it is not measured
_CPU_BATCH = 32


def openings(model: Model) -> list[tuple[int, ...]]:
    """The ways in which a text begins for this model: a document, and the user's turn of a chat.

    Raises:
        HeadscopeError: no tokenizer, or none of the ways exists.
    """
    if model.tokenizer is None:
        raise HeadscopeError(f"{model.name!r} was loaded without a tokenizer, so it cannot begin a text.")
    tokenizer: Any = model.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    found: list[tuple[int, ...]] = [(int(first),)] if first is not None else []
    if getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": "\u241e"}]
        text = tokenizer.apply_chat_template(turn, tokenize=False).split("\u241e")[0]
        found.append(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))
    if not found:
        raise HeadscopeError(
            f"The tokenizer of {model.name!r} has no token that begins a text, so {model.name!r} cannot "
            "write samples; give texts."
        )
    return found


@torch.no_grad()
def sample(
    model: Model, opening: tuple[int, ...], rows: int, context: int, seed: int, *, batch: int | None = None
) -> Iterator[NDArray[np.int32]]:
    """Windows that begin with `opening`, drawn at temperature 1 from the 100 likeliest tokens.

    A text that ends is followed by whatever the model puts after an end.

    Args:
        model: the model.
        opening: token ids to begin with, fewer than `context`.
        rows: how many windows.
        context: tokens of each.
        seed: of all draws; the same windows need the same batch size, device and precision.
        batch: windows written together; by the memory of keys and values on a GPU, 32 on a CPU.

    Yields:
        windows. int32 [batch, context]
    """
    source = torch.Generator(model.device).manual_seed(seed)
    size = batch or _batch(model, context)
    for start in range(0, rows, size):
        yield _written(model, opening, min(size, rows - start), context, source)


def _written(
    model: Model, opening: tuple[int, ...], rows: int, context: int, source: torch.Generator
) -> NDArray[np.int32]:
    found = torch.tensor(opening[: context - 1], device=model.device).expand(rows, -1)
    fresh, cache = found, DynamicCache(config=model.hf.config)
    while found.shape[1] < context:
        logits: Tensor = model.hf(
            input_ids=fresh, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits
        values, which = logits[:, -1].float().topk(min(_LIKELIEST, logits.shape[-1]))
        drawn = torch.multinomial(values.softmax(-1), 1, generator=source)
        fresh = which.gather(1, drawn)
        found = torch.cat([found, fresh], 1)
    return found.cpu().numpy().astype(np.int32)


def _batch(model: Model, context: int) -> int:
    if model.device.type == "cpu":
        return _CPU_BATCH
    g = model.geometry
    size = next(model.hf.parameters()).element_size()
    row = context * g.layers * g.kv_heads * (g.head_dim + g.value_dim) * size
    return max(1, min(4096, _CACHE // row))
