"""Where a streaming KV group keeps its keys: sink slots first, then a ring of recent ones.

Positions count from the sequence's first real key. Position r < sink lives in slot r for good;
any later one in slot `sink + (r - sink) % (capacity - sink)`, where it is overwritten once it has
left every window. Softmax does not care about order, so the ring is never unrolled.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ring_slot(position: Tensor, sink: int, capacity: int) -> Tensor:
    """Slot in which the key of each position (0 or more) is stored."""
    return torch.where(position < sink, position, sink + (position - sink) % (capacity - sink))


def ring_position(seen: Tensor, sink: int, capacity: int) -> Tensor:
    """Position each slot holds after `seen` [B] keys, -1 where none was stored. [B, capacity]"""
    slot = torch.arange(capacity, device=seen.device)
    last = seen.long()[:, None] - 1
    recent = last - (last - slot) % (capacity - sink)
    position = torch.where(slot < sink, slot, recent)
    return position.masked_fill(slot > last, -1)
