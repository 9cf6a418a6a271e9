"""Pictures of scenes, drawn as tensors: the same for training and for files given to a user."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.probes.toys.shapes.scenes import COLOURS, GRID, SHAPES, Scenes

if TYPE_CHECKING:
    from PIL.Image import Image

CELL = 16  # pixels a side
SIDE = GRID * CELL
NOISE = 0.1  # standard deviation of a pixel's noise, of full scale
_GROUND, _LIGHT, _CHROMA = 0.4, 0.25, 0.4


def render(scenes: Scenes, dice: torch.Generator, noise: float = NOISE) -> Tensor:
    """Pictures of the scenes; sizes, exact places and noise follow from `dice`. [B, 3, SIDE, SIDE], uint8"""
    kind, copy_of = _grid(scenes)
    batch, cells = kind.shape
    u, v = _offsets(batch, cells, dice)
    radius = 4.5 + 1.7 * torch.rand(batch, cells, 1, 1, generator=dice, device=dice.device)
    mask = _masks(u, v, radius).gather(2, copy_of[..., None, None, None].expand(-1, -1, 1, CELL, CELL))
    ink = torch.where(kind[..., None] >= 0, _ink(scenes).gather(1, copy_of[..., None].expand(-1, -1, 3)), 0.0)
    flat = _GROUND + mask * ink[..., None, None]  # [B, cells, 3, CELL, CELL]
    picture = (
        flat.view(batch, GRID, GRID, 3, CELL, CELL).permute(0, 3, 1, 4, 2, 5).reshape(batch, 3, SIDE, SIDE)
    )
    picture = picture + noise * torch.randn(picture.shape, generator=dice, device=dice.device)
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def pixels(pictures: Tensor) -> Tensor:
    """Pictures as the vision tower takes them, what its image processor would make. [B, 3, SIDE, SIDE]"""
    return pictures.float() / 127.5 - 1


def images(pictures: Tensor) -> list[Image]:
    """Pictures as PIL images."""
    from PIL import Image

    return [Image.fromarray(one.permute(1, 2, 0).cpu().numpy()) for one in pictures]


def _grid(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Which kind stands in each cell, -1 for none, and the same with 0 for none. [B, cells] each"""
    there = (scenes.cells >= 0) & scenes.present[..., None]
    index = torch.arange(len(SHAPES), device=scenes.cells.device)[None, :, None]
    kind = torch.full((len(scenes), GRID * GRID), -1, device=scenes.cells.device)
    labels = torch.where(there, index, -1).flatten(1)
    kind.scatter_reduce_(1, scenes.cells.clamp(min=0).flatten(1), labels, "amax")
    return kind, kind.clamp(min=0)


def kinds_in_cells(scenes: Scenes) -> Tensor:
    """Which kind stands in each cell, -1 for none. [B, GRID²]"""
    return _grid(scenes)[0]


def _ink(scenes: Scenes) -> Tensor:
    """What a shape adds to the ground, in red, green and blue. [B, K, 3]"""
    angle = scenes.colour * (2 * math.pi / len(COLOURS))
    third = 2 * math.pi / 3
    hue = torch.stack([torch.cos(angle - i * third) for i in range(3)], -1) * math.sqrt(2 / 3)
    return scenes.opacity[..., None] * (_LIGHT + _CHROMA * scenes.saturation[..., None] * hue)


def _offsets(batch: int, cells: int, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pixels right of and below the centre of a cell's shape. [B, cells, CELL, CELL] each"""
    line = torch.arange(CELL, device=dice.device) - (CELL - 1) / 2
    shift = torch.rand(2, batch, cells, 1, 1, generator=dice, device=dice.device) - 0.5
    return line.expand(CELL, CELL) - shift[0], line[:, None].expand(CELL, CELL) - shift[1]


def _masks(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """How far each pixel is covered by each kind of shape, 0 to 1. [B, cells, K, CELL, CELL]"""
    a, b, far = u.abs(), v.abs(), torch.hypot(u, v)
    distance = {
        "circle": far - r,
        "square": torch.maximum(a, b) - 0.88 * r,
        "triangle": torch.maximum(0.866 * a - 0.5 * (v + 1.1 * r), v - 0.75 * r),
        "star": _star(u, v, far, r),
        "diamond": 0.707 * (a + b) - 0.78 * r,
        "cross": torch.minimum(
            torch.maximum(a - 0.34 * r, b - r),
            torch.maximum(b - 0.34 * r, a - r),
        ),
        "ring": (far - 0.8 * r).abs() - 0.22 * r,
        "bar": torch.maximum(a - 1.1 * r, b - 0.36 * r),
    }
    return torch.stack([(0.5 - distance[name]).clamp(0, 1) for name in SHAPES], 2)


def _star(u: Tensor, v: Tensor, far: Tensor, r: Tensor) -> Tensor:
    """Five points; the edge from a point to the notch beside it is a straight line."""
    half = math.pi / 5
    angle = (torch.atan2(u, -v).abs() % (2 * half) - half).abs()  # 0 at a notch, half at a point
    outer, inner = 1.2, 0.55
    point = (outer * math.cos(half), outer * math.sin(half))
    across, along = point[1], inner - point[0]
    edge = inner * across / (across * torch.cos(angle) + along * torch.sin(angle))
    return (far - edge * r) * 0.8
