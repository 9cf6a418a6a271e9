"""What every head adds to the residual stream, averaged over a prompt's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.probes.forward import Batch
from headscope.probes.inside import recording

if TYPE_CHECKING:
    from headscope.probes.model import Model


@torch.no_grad()
def mean_writes(model: Model, batch: Batch, *, last: bool = False) -> Tensor:
    """Mean over the rows up to the answer, or the answering row alone; float32. [B, L, H, hidden]"""
    with recording(model) as record:
        batch.logits(model)
    rows = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    inside = (rows == batch.rows[:, None]) if last else (rows <= batch.rows[:, None])
    share = inside.float() / inside.sum(1, keepdim=True)
    found = []
    for layer, z in enumerate(record.z):
        mean = torch.einsum("bthd,bt->bhd", z.float(), share.to(z.device))
        found.append(torch.einsum("bhd,hdo->bho", mean, model.output_weight(layer).float()).to(share.device))
    return torch.stack(found, 1)
