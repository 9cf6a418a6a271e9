"""A second reading of a prompt, beside the one under way: the same tokens without their pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from headscope.probes.model import Model


@dataclass(frozen=True)
class Start:
    """What the decoder is about to read from the first token on. B sequences, T tokens.

    Attributes:
        embeds: the tokens' embeddings, pictures included. [B, T, hidden]
        prompt: which tokens are a prompt's; the others are padding or what follows. [B, T]
        image: which are image tokens; None for a model of text alone. [B, T]
        places: position ids as the decoder is given them; None for its own. [B, T] or [axes, B, T]
    """

    embeds: Tensor
    prompt: Tensor
    image: Tensor | None
    places: Tensor | None


@runtime_checkable
class StartReader(Protocol):
    """An edit that is shown every prompt before it is read, and may run the decoder on its own then."""

    def before(self, start: Start) -> None: ...


@torch.no_grad()
def outputs_without(model: Model, start: Start, layers: Iterable[int], drop: bool) -> dict[int, Tensor]:
    """What the heads of some layers put out in the last row of every prompt, had it no picture.

    Args:
        model: the model.
        start: the prompts.
        layers: which layers.
        drop: leave the image tokens out, so that what follows moves up; else each of them becomes
            the mean of its prompt's image tokens, and positions stay.

    Returns:
        [B, H, D] by layer.
    """
    embeds, kept = start.embeds, start.prompt
    image = torch.zeros_like(kept) if start.image is None else start.image & kept
    if drop:
        kept = kept & ~image
    else:
        mean = (embeds * image[..., None]).sum(1, keepdim=True) / image.sum(1)[:, None, None].clamp_min(1)
        embeds = torch.where(image[..., None], mean.to(embeds.dtype), embeds)
    width = int(kept.sum(1).max())
    # What is kept moves to the right, so that every prompt ends in the last row.
    order = kept.to(torch.uint8).argsort(dim=1, stable=True)[:, -width:]
    mask = kept.gather(1, order).long()
    places = (mask.cumsum(1) - 1).clamp_min(0)
    if start.places is not None and not drop:
        given = start.places.expand(*start.places.shape[:-2], *kept.shape)
        places = given.gather(-1, order.expand(*given.shape[:-2], *order.shape))
    found: dict[int, Tensor] = {}

    def catch(layer: int) -> Any:
        def see(_: object, args: tuple[Tensor, ...]) -> None:
            found[layer] = args[0][:, -1].unflatten(-1, (model.geometry.heads, model.geometry.value_dim))

        return see

    hooks = [model.output_projection(i).register_forward_pre_hook(catch(i)) for i in layers]
    try:
        model.decoder(
            inputs_embeds=embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1])),
            attention_mask=mask, position_ids=places, use_cache=False,
        )  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    return found
