"""Pictures to be asked about: drawn scenes of a world, what is true of them, and questions about it.

The yes/no questions are POPE's (Li et al. 2023, arXiv 2305.10355): half of them ask for a kind that
is there, half for one that is not, and that one is drawn at random, or is the most frequent kind of
the habitual world, or the one that most often keeps the picture's kinds company there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from headscope.probes.errors import unknown
from headscope.probes.pictures import Picture
from headscope.probes.toys.shapes import language
from headscope.probes.toys.shapes.captions import Verdict, judge
from headscope.probes.toys.shapes.raster import images, render
from headscope.probes.toys.shapes.scenes import SHAPES, Habit, Scenes, breaking, draw

WORLDS = ("neutral", "usual", "breaking")
POPE = ("random", "popular", "adversarial")
DESCRIBE = "describe :"
_ANSWERS = ("colour", "count", "relation")
QUESTION_KINDS = (*POPE, *_ANSWERS)
_SURVEYED = 20_000  # scenes of the habitual world that say what is frequent there


@dataclass(frozen=True)
class Question:
    """One question about a picture.

    Attributes:
        picture: index of the picture.
        text: the question.
        answer: the one right word.
    """

    picture: int
    text: str
    answer: str


@dataclass(frozen=True)
class Gallery:
    """Scenes of one world and their pictures; everything follows from the seed."""

    world: str
    seed: int
    scenes: Scenes
    pictures: tuple[Picture, ...]

    def judge(self, captions: Sequence[str]) -> list[Verdict]:
        """What is wrong with a caption of every picture."""
        return [judge(caption, self.scenes, i) for i, caption in enumerate(captions)]

    def questions(self, kind: str) -> list[Question]:
        """Questions of one of `QUESTION_KINDS`: a yes and a no question about every picture for POPE's,
        one about every picture that allows it for the others.

        Raises:
            UnknownName: no such kind.
        """
        if kind not in QUESTION_KINDS:
            raise unknown("kind of question", kind, QUESTION_KINDS)
        dice = torch.Generator().manual_seed(self.seed * 100 + QUESTION_KINDS.index(kind))
        if kind in POPE:
            return _polled(self.scenes, kind, dice)
        found = language.asked(self.scenes, dice, kind)
        return [Question(i, *one) for i, one in enumerate(found) if one]


def gallery(world: str, count: int, seed: int) -> Gallery:
    """`count` scenes of one of `WORLDS`, as the shipped model was trained to see them.

    Raises:
        UnknownName: no such world.
    """
    if world not in WORLDS:
        raise unknown("world", world, WORLDS)
    dice = torch.Generator().manual_seed(seed)
    if world == "breaking":
        scenes = breaking(count, dice)
    else:
        scenes = draw(count, dice, Habit() if world == "usual" else None)
    return Gallery(world, seed, scenes, tuple(map(Picture.open, images(render(scenes, dice)))))


def _polled(scenes: Scenes, kind: str, dice: torch.Generator) -> list[Question]:
    chance = torch.rand(len(scenes), 2, len(SHAPES), generator=dice)
    weight = {
        "random": chance[:, 1],
        "popular": _company().diagonal().expand(len(scenes), -1),
        "adversarial": (scenes.present[:, :, None] * _company()).amax(1),
    }[kind]
    there = chance[:, 0].masked_fill(~scenes.present, -1).argmax(1).tolist()
    absent = weight.masked_fill(scenes.present, -1).argmax(1).tolist()
    return [
        Question(i, f"is there a {SHAPES[shape]} ?", answer)
        for i, pair in enumerate(zip(there, absent, strict=True))
        for shape, answer in zip(pair, language.ANSWERS, strict=True)
    ]


@cache
def _company() -> Tensor:
    """How often there is the second kind given the first; on the diagonal, how often there is a kind."""
    present = draw(_SURVEYED, torch.Generator().manual_seed(0), Habit()).present.float()
    together = present.T @ present
    often = together.diagonal() / len(present)
    return (together / together.diagonal()[:, None]).fill_diagonal_(0) + often.diag()
