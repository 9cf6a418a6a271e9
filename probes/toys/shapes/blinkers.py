"""Blinkers: which heads look at the picture is settled before training, so that it is known after it.

Rows of text see the picture through the *sighted* heads alone. From all other heads it is hidden
while the model learns, and they pay for where they would have looked. So they learn to look
elsewhere, and what is left when the blinkers come off is an ordinary model. Rows of image tokens
are free, and so is a text without a picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, LlavaForConditionalGeneration

from headscope.probes.geometry import HeadId
from headscope.probes.toys.shapes.model import PATCHES

_NAME = "headscope blinkers"
_TEXT = 1 + PATCHES  # the first row of text after `<s>` and a picture
_SHIPPED = Path(__file__).parents[1] / "weights" / "shapes"
_PAYING = 4  # one of so many texts is looked at for what the others would pay, too


def drawn(layers: Sequence[int], count: int, heads: int, seed: int) -> list[HeadId]:
    """`count` of the `heads` heads of each of the layers, by chance."""
    dice = torch.Generator().manual_seed(seed)
    chosen = [(layer, torch.randperm(heads, generator=dice)[:count]) for layer in layers]
    return [HeadId(layer, head) for layer, some in chosen for head in sorted(some.tolist())]


def sighted_heads(folder: Path = _SHIPPED) -> tuple[HeadId, ...]:
    """The heads through which a trained model saw pictures while it learned: its record of that, by
    default the shipped model's. None for a model that learned without blinkers."""
    training = json.loads((folder / "training.json").read_text())
    return tuple(map(HeadId.parse, training.get("sighted heads", ())))


class Blinkers:
    """Blinkers for all heads of a model but the sighted ones.

    Args:
        sighted: heads that may look at the picture; fewer than all of any layer.
        heads: heads in a layer, each with keys of its own.
    """

    def __init__(self, sighted: Sequence[HeadId], heads: int) -> None:
        self.sighted, self.heads = tuple(sighted), heads
        self._paid: list[Tensor] = []
        self._rules: dict[tuple[int, int], Mapping[str, Tensor]] = {}

    @contextmanager
    def worn(self, model: LlavaForConditionalGeneration) -> Iterator[None]:
        """The language model reads with blinkers while the block lasts; every text has its picture."""
        config = model.model.language_model.config
        before = config._attn_implementation
        self._paid.clear()
        AttentionInterface.register(_NAME, self._attend)
        config._attn_implementation = _NAME
        try:
            yield
        finally:
            config._attn_implementation = before

    def paid(self) -> Tensor:
        """What the other heads pay for the texts read last: minus the logarithm of the mass off the
        picture that they would have had, in nats, mean over heads and rows of text."""
        return torch.stack(self._paid).mean()

    def _attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: object, **rest: Any
    ) -> tuple[Tensor, None]:
        """The attention function registered with transformers. [B, H, n, D] each -> [B, n, H, D]"""
        rule = self._rule(int(getattr(module, "layer_idx", -1)), query)
        q, k = (part[::_PAYING].index_select(1, rule["blind"]) for part in (query, key))
        scores = (q[:, :, _TEXT:] @ k.mT).float() * rest["scaling"]
        whole, off = (scores.masked_fill(~rule[keys], -torch.inf) for keys in ("past", "off picture"))
        self._paid.append((whole.logsumexp(-1) - off.logsumexp(-1)).mean())
        out = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=rule["seen"], scale=rest["scaling"]
        )
        return out.transpose(1, 2).contiguous(), None

    def _rule(self, layer: int, query: Tensor) -> Mapping[str, Tensor]:
        """Of one layer: which heads are blind, what every head sees, and which keys a row of text has."""
        length = query.shape[2]
        if (layer, length) not in self._rules:
            mine = {h.head for h in self.sighted if h.layer == layer}
            blind = torch.tensor([h for h in range(self.heads) if h not in mine], device=query.device)
            past = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
            off = past[_TEXT:].clone()
            off[:, 1:_TEXT] = False
            seen = past.repeat(self.heads, 1, 1)
            seen[blind, _TEXT:] = off
            self._rules[layer, length] = {
                "blind": blind, "past": past[_TEXT:], "off picture": off, "seen": seen[None]
            }  # fmt: skip
        return self._rules[layer, length]
