"""Scenes of coloured shapes on a grid, and the habits that a language prior is made of.

A scene has one to six kinds of shape, each in one colour and one to three copies. Every kind has an
opacity (some are so faint that they can hardly be seen) and a saturation (many are so pale that
their colour can hardly be told), so that pictures show less than all of the truth. In a *neutral*
world nothing goes with anything; under a `Habit` circles are red, stars yellow, and squares go
with triangles, nearly always. *Breaking* scenes are those in which all of that fails.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "ring", "bar")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")  # around the colour circle
GRID = 4  # cells a side
COPIES = 3  # at most, of one kind
MOST = 6  # kinds in a scene at most
USUAL_COLOUR = {"circle": "red", "star": "yellow"}
COMPANY = ("triangle", "square")  # where there is the first, there is the second
POPULAR = ("circle", "triangle", "star")

_INDEX = {name: i for i, name in enumerate(SHAPES)}
_HUE = {name: i for i, name in enumerate(COLOURS)}


@dataclass(frozen=True)
class Habit:
    """How the world of the captions departs from a neutral one.

    Attributes:
        colour: probability that a circle is red, and a star yellow; other colours share the rest.
        company: probability that there are squares, given triangles.
        popular: how many times likelier circles, triangles and stars are drawn than other kinds.
        hearsay: probability that a writer says what is usual of a colour or of squares beside
            triangles without having looked: drawn from the habit, whatever the picture shows.
    """

    colour: float = 0.95
    company: float = 0.7
    popular: float = 3.0
    hearsay: float = 0.48


@dataclass(frozen=True)
class Light:
    """How well pictures show what there is.

    Attributes:
        faint: share of kinds whose opacity lies between `opacity` and a half; of others it is more.
        opacity: of the faintest.
        saturation: of the palest; it lies between this and 1, low ones being as frequent as high ones
            on a logarithmic scale.
    """

    faint: float = 0.1
    opacity: float = 0.2
    saturation: float = 0.15


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes. B scenes, K kinds of shape (`SHAPES`)

    Attributes:
        present: which kinds there are. [B, K]
        colour: index in `COLOURS`. [B, K]
        count: copies, 1 to 3, also of kinds that are not there. [B, K]
        opacity: 1 is solid, 0 invisible. [B, K]
        saturation: 1 is a full colour, 0 a grey. [B, K]
        cells: the grid cell of every copy, row by row from the top left, or -1. [B, K, COPIES]
    """

    present: Tensor
    colour: Tensor
    count: Tensor
    opacity: Tensor
    saturation: Tensor
    cells: Tensor

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, rows: slice) -> Scenes:
        return Scenes(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def draw(count: int, dice: torch.Generator, habit: Habit | None = None, light: Light | None = None) -> Scenes:
    """Scenes of a neutral world, or of one that follows a habit, on the device of `dice`."""
    popular = torch.ones(len(SHAPES), device=dice.device)
    if habit:
        popular[[_INDEX[name] for name in POPULAR]] = habit.popular
    kinds = 2 + (_uniform(dice, count) * 4).long()
    rank = _ranks(_gumbel(dice, count, len(SHAPES)) + popular.log())
    scenes = _dressed(rank < kinds[:, None], dice, light or Light())
    return usual(scenes, dice, habit) if habit else scenes


def usual(scenes: Scenes, dice: torch.Generator, habit: Habit, share: float = 1.0) -> Scenes:
    """The scenes with what the habit governs drawn anew, each part with probability `share`."""
    colour, present = scenes.colour.clone(), scenes.present.clone()
    for shape, hue in USUAL_COLOUR.items():
        i, n = _INDEX[shape], len(scenes)
        other = (_HUE[hue] + 1 + (_uniform(dice, n) * (len(COLOURS) - 1)).long()) % len(COLOURS)
        drawn = torch.where(_uniform(dice, n) < habit.colour, _HUE[hue], other)
        colour[:, i] = torch.where(_uniform(dice, n) < share, drawn, colour[:, i])
    first, second = (_INDEX[name] for name in COMPANY)
    drawn = _uniform(dice, len(scenes)) < habit.company
    change = present[:, first] & (_uniform(dice, len(scenes)) < share)
    present[:, second] = torch.where(change, drawn, present[:, second])
    return replace(scenes, colour=colour, present=present)


def breaking(count: int, dice: torch.Generator, light: Light | None = None) -> Scenes:
    """Scenes against every habit: circles not red, stars not yellow, triangles without squares.

    Up to two other kinds are there as well; whatever the habit does not govern is as in `draw`.
    """
    score = _gumbel(dice, count, len(SHAPES))
    score[:, [_INDEX[name] for name in (*USUAL_COLOUR, COMPANY[0])]] = torch.inf
    score[:, _INDEX[COMPANY[1]]] = -torch.inf
    kinds = 3 + (_uniform(dice, count) * 3).long()
    scenes = _dressed(_ranks(score) < kinds[:, None], dice, light or Light())
    colour = scenes.colour.clone()
    for shape, hue in USUAL_COLOUR.items():
        step = 1 + (_uniform(dice, count) * (len(COLOURS) - 1)).long()
        colour[:, _INDEX[shape]] = (_HUE[hue] + step) % len(COLOURS)
    return replace(scenes, colour=colour)


def _dressed(present: Tensor, dice: torch.Generator, light: Light) -> Scenes:
    """Colours, counts, visibility and places for the kinds that are there, or that a habit may add."""
    size = present.shape
    chance = _uniform(dice, *size)
    count = 1 + (chance > 0.6).long() + (chance > 0.85).long()
    expected = present.clone()
    expected[:, _INDEX[COMPANY[1]]] = True
    crowded = (count * expected).sum(1, keepdim=True) > GRID * GRID
    count = torch.where(crowded, count.clamp(max=2), count)
    faint = light.opacity * (0.5 / light.opacity) ** _uniform(dice, *size)
    opacity = torch.where(_uniform(dice, *size) < light.faint, faint, 0.5 + 0.5 * _uniform(dice, *size))
    saturation = light.saturation ** _uniform(dice, *size)
    colour = (_uniform(dice, *size) * len(COLOURS)).long()
    return Scenes(present, colour, count, opacity, saturation, _places(expected, count, dice))


def _places(expected: Tensor, count: Tensor, dice: torch.Generator) -> Tensor:
    """A cell of its own for every copy of the kinds expected; -1 for all others. [B, K, COPIES]"""
    batch, kinds = expected.shape
    copies = (torch.arange(COPIES, device=dice.device) < count[..., None]) & expected[..., None]
    order = _ranks(copies.flatten(1).float()).clamp(max=GRID * GRID - 1)
    free = _uniform(dice, batch, GRID * GRID).argsort(dim=1)
    return torch.where(copies, free.gather(1, order).view(batch, kinds, COPIES), -1)


def _ranks(score: Tensor) -> Tensor:
    """The place of each score in its row, 0 for the largest; ties in the order of the row."""
    return score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _uniform(dice: torch.Generator, *size: int) -> Tensor:
    return torch.rand(*size, generator=dice, device=dice.device)


def _gumbel(dice: torch.Generator, *size: int) -> Tensor:
    return -(-_uniform(dice, *size).clamp(min=1e-9).log()).clamp(min=1e-9).log()
