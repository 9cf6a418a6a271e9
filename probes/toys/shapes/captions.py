"""What a caption claims, and how much of it is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headscope.probes.toys.shapes.language import PLURALS
from headscope.probes.toys.shapes.scenes import COLOURS, COMPANY, SHAPES, USUAL_COLOUR, Scenes

_SHAPE = {name: i for i, name in enumerate(SHAPES)} | {name: i for i, name in enumerate(PLURALS)}


@dataclass(frozen=True)
class Mention:
    """One kind of shape as a caption has it: indices in `SHAPES` and, where one was said, `COLOURS`."""

    shape: int
    colour: int | None


@dataclass(frozen=True)
class Verdict:
    """What is wrong with one caption.

    Attributes:
        mentions: kinds named, each the first time.
        absent: of these, how many are not in the picture.
        miscoloured: of these, how many are there in another colour.
        habit: of the absent and miscoloured ones, how many are what the habit would have.
        found: kinds of the picture that are named.
        kinds: kinds in the picture.
        words: length of the caption in words.
    """

    mentions: int
    absent: int
    miscoloured: int
    habit: int
    found: int
    kinds: int
    words: int


def mentions(words: Sequence[str]) -> list[Mention]:
    """The kinds that a caption names, each once, with the first colour said before the next kind."""
    found: dict[int, int | None] = {}
    latest = None
    for word in words:
        if word in _SHAPE:
            latest = _SHAPE[word] if _SHAPE[word] not in found else None
            if latest is not None:
                found[latest] = None
        elif word in COLOURS and latest is not None and found[latest] is None:
            found[latest] = COLOURS.index(word)
    return [Mention(shape, colour) for shape, colour in found.items()]


def judge(caption: str, scenes: Scenes, index: int) -> Verdict:
    """Compare a caption with scene `index`."""
    words = caption.split()
    said = mentions(words)
    present, colour = scenes.present[index].tolist(), scenes.colour[index].tolist()
    absent = [m for m in said if not present[m.shape]]
    wrong = [m for m in said if present[m.shape] and m.colour not in (None, colour[m.shape])]
    habit = sum(SHAPES[m.shape] == COMPANY[1] and present[SHAPES.index(COMPANY[0])] for m in absent)
    habit += sum((SHAPES[m.shape], COLOURS[m.colour or 0]) in USUAL_COLOUR.items() for m in wrong)
    return Verdict(
        len(said), len(absent), len(wrong), habit, len(said) - len(absent), sum(present), len(words)
    )
