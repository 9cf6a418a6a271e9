"""What heads put out with a picture and without it: vision-aware head divergence (He et al. 2025).

    VHD_h = || z_h(with the image) - z_h(without) ||_2

z is a head's output in one row of text, before the output projection. What stands in for the image
is a choice, and results depend on it:

    removed  no image tokens at all, as in the paper; what follows moves up by as many positions
    blank    a picture of the same size, all grey; positions stay
    mean     every image token's embedding is the mean of them all; positions stay
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from headscope.probes.errors import HeadscopeError, unknown
from headscope.probes.pictures import Picture
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model

Stand = Literal["removed", "blank", "mean"]
_GREY = (128, 128, 128)


@dataclass(frozen=True)
class Divergence:
    """R rows of one prompt, float32 on the model's device.

    Attributes:
        vhd: distance between a head's outputs with and without the picture, 0 ... [L, H, R]
        text: size of its output without. [L, H, R]
    """

    vhd: Tensor
    text: Tensor


@torch.no_grad()
def divergence(model: Model, prompt: Prompt, rows: Sequence[int], stand: Stand = "removed") -> Divergence:
    """How far the picture moves every head's output.

    Args:
        model: a vision-language model.
        prompt: a prompt with a picture.
        rows: positions of text after it.
        stand: what stands in for the picture.

    Raises:
        UnknownName: no such stand-in.
        HeadscopeError: no picture, or rows that are not text after one.
    """
    if stand not in get_args(Stand):
        raise unknown("stand-in for a picture", stand, get_args(Stand))
    start = prompt.image_runs[-1][1] if prompt.image_runs else len(prompt)
    if not rows or min(rows) < start or max(rows) >= len(prompt):
        raise HeadscopeError(
            f"The rows {list(rows)} of a {prompt.task!r} prompt are not all text after its picture."
        )
    with heads_at(model, rows) as seen:
        model.hf(**model.inputs([prompt]), use_cache=False, logits_to_keep=1)
    without = _without(model, prompt, rows, stand)
    return Divergence((torch.stack(seen) - without).norm(dim=-1), without.norm(dim=-1))


@contextmanager
def heads_at(model: Model, rows: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collect every layer's head outputs in some rows of a single sequence. [H, R, D] each"""
    found: list[Tensor] = []
    at = torch.tensor(list(rows))
    width = model.geometry.value_dim

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0][0, at.to(args[0].device)].unflatten(-1, (-1, width)).transpose(0, 1).float())

    layers = range(model.geometry.layers)
    hooks = [model.output_projection(layer).register_forward_pre_hook(keep) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _without(model: Model, prompt: Prompt, rows: Sequence[int], stand: Stand) -> Tensor:
    """Every head's output without the picture. [L, H, R, D]"""
    if stand == "removed":
        gone = {p for run in prompt.image_runs for p in range(*run)}
        ids = tuple(token for i, token in enumerate(prompt.ids) if i not in gone)
        rows = [row - len(gone) for row in rows]
        prompt = Prompt(prompt.task, ids)
    if stand == "blank":
        prompt = replace(prompt, pictures=tuple(map(_grey, prompt.pictures)))
    with heads_at(model, rows) as seen, _averaged(model, prompt if stand == "mean" else None):
        model.hf(**model.inputs([prompt]), use_cache=False, logits_to_keep=1)
    return torch.stack(seen)


def _grey(picture: Picture) -> Picture:
    from PIL import Image

    return Picture.open(Image.new("RGB", (picture.width, picture.height), _GREY))


@contextmanager
def _averaged(model: Model, prompt: Prompt | None) -> Iterator[None]:
    """Give all image tokens of a prompt the mean of their embeddings; nothing without a prompt."""
    at = torch.tensor([p for run in (prompt.image_runs if prompt else ()) for p in range(*run)])

    def even(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        embedded = kwargs["inputs_embeds"].clone()
        there = at.to(embedded.device)
        embedded[0, there] = embedded[0, there].mean(0)
        return args, kwargs | {"inputs_embeds": embedded}

    hook = model.decoder.register_forward_pre_hook(even, with_kwargs=True) if prompt else None
    try:
        yield
    finally:
        if hook:
            hook.remove()
