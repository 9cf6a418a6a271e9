"""Which keys a query may see, kept as a rule instead of an n x n mask.

transformers hands every attention function a mask built by the matching mask function. Ours
builds a `Visibility`: it remembers the arguments, and answers for a few rows at a time, for the
whole call (what the fused kernel needs), or for one far-away row (how wide is the window?).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import and_masks, padding_mask_function, sdpa_mask

from headscope.probes.errors import Refused

_FAR = 1 << 24  # a row so late that every window ends before it begins
_WIDEST = 1 << 21


@dataclass(frozen=True, eq=False)
class Visibility:
    """The keys visible to the queries of one attention call, in absolute key positions.

    The layers of one forward pass share it, so what is kept per object is found once a pass.

    Attributes:
        arguments: what transformers passed to the mask function.
    """

    arguments: dict[str, Any]

    @property
    def query_offset(self) -> int:
        """Absolute position of the first query of this call."""
        return int(self.arguments.get("q_offset", 0))

    @property
    def key_offset(self) -> int:
        """Absolute position of the first key still held (a sliding cache drops old ones)."""
        return int(self.arguments.get("kv_offset", 0))

    def fused(self, start: int, stop: int) -> Tensor | None:
        """The boolean mask for the queries `start ... stop - 1` of this call, or None for causal.

        Returns:
            [B, 1, stop - start, N], True where visible; None only when all queries are asked
            for and plain causal attention is meant.
        """
        if start == 0 and stop == self.arguments["q_length"]:
            return self._whole
        part = {
            "q_length": stop - start, "q_offset": self.query_offset + start, "allow_is_causal_skip": False,
        }  # fmt: skip
        mask: Tensor | None = sdpa_mask(**(self.arguments | part))
        return mask

    @cached_property
    def _whole(self) -> Tensor | None:
        """The mask of the whole call, made once for all layers that share it."""
        mask: Tensor | None = sdpa_mask(**self.arguments)
        return mask

    def starts(self, batch: int) -> tuple[int, ...]:
        """Absolute position of each sequence's first real token (left padding), one a sequence.

        Without an attention mask there is no padding; with one, its device is waited for once.
        """
        return (0,) * batch if self.arguments.get("attention_mask") is None else self._padding

    @cached_property
    def _padding(self) -> tuple[int, ...]:
        return tuple(self.arguments["attention_mask"].to(torch.uint8).argmax(-1).tolist())

    def ranges(self, rows: Tensor, keys: int, sequence: int = 0) -> tuple[Tensor, Tensor]:
        """The visible keys `lo <= j < hi` of the queries at absolute positions `rows`.

        Args:
            rows: absolute query positions. [R]
            keys: number of keys in this call; `lo` and `hi` index them (offset removed).
            sequence: which sequence of the batch the rows belong to.

        Returns:
            `lo` and `hi`. [R] each

        Raises:
            Refused: a row's visible keys are not one contiguous range, or there are none.
        """
        if self.plain_causal:
            return torch.zeros_like(rows), rows + 1
        visible = self._rows(rows, keys, sequence)
        count = visible.sum(-1)
        lo = visible.to(torch.uint8).argmax(-1)
        steps = (visible[:, 1:] != visible[:, :-1]).sum(-1)
        last = visible.gather(-1, (lo + count - 1).clamp_min(0)[:, None])[:, 0]
        if bool((count == 0).any()):
            raise Refused("A query row sees no key at all: is it a padding position?")
        if not bool((last & (steps <= 2)).all()):
            raise Refused("The visible keys of a row are not one contiguous range.")
        return lo, lo + count

    def window(self) -> int | None:
        """How many keys a very late query sees: the layer's window, or None when it sees all."""
        row = torch.full((1, 1, 1, 1), _FAR)
        key = torch.arange(_FAR - _WIDEST, _FAR + 1).view(1, 1, 1, -1)
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.long)
        seen: Tensor = self.arguments["mask_function"](zero, zero, row, key)
        count = int(seen.expand(key.shape).sum())
        return None if count == _WIDEST + 1 else count

    @property
    def plain_causal(self) -> bool:
        """Whether every query sees all keys up to its own and no other."""
        arguments = self.arguments
        return (
            arguments.get("local_size") is None
            and arguments.get("allow_is_causal_skip", True)
            and arguments.get("attention_mask") is None
            and self.key_offset == 0
        )

    def _rows(self, rows: Tensor, keys: int, sequence: int) -> Tensor:
        """Visibility of the keys for a few rows, straight from the rule. [R, N]"""
        arguments = self.arguments
        if arguments.get("use_vmap"):  # such rules cannot be evaluated by broadcasting
            mask = sdpa_mask(**(arguments | {"allow_is_causal_skip": False}))
            assert mask is not None
            return mask[sequence, 0][rows - self.query_offset]
        rule, padding = arguments["mask_function"], arguments.get("attention_mask")
        if padding is not None:
            short = keys + self.key_offset - padding.shape[-1]
            padding = torch.nn.functional.pad(padding, (0, short)) if short > 0 else padding
            rule = and_masks(rule, padding_mask_function(padding.to(rows.device)))
        shape = (1, 1, len(rows), keys)
        key = torch.arange(keys, device=rows.device).view(1, 1, 1, -1) + self.key_offset
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=rows.device)
        visible: Tensor = rule(zero + sequence, zero, rows.view(1, 1, -1, 1), key)
        return visible.expand(shape)[0, 0]


def visibility(**arguments: Any) -> Visibility:
    """The mask function registered with transformers beside the attention function."""
    return Visibility(arguments)
