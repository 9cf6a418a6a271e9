"""A short name for a set of weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PIECE = 1 << 24


@torch.no_grad()
def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 over all parameters, rounded to bfloat16 so that the dtype of loading does not matter.

    Returns:
        16 hexadecimal digits; the same on every device. Two models share them only if every
        weight agrees after rounding.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        for piece in parameter.detach().reshape(-1).split(_PIECE):
            bits = piece.to(torch.bfloat16).view(torch.int16).cpu()
            digest.update(memoryview(bits.numpy()))
    return digest.hexdigest()[:16]
