"""What is said about scenes: captions, and five kinds of questions, as token ids made in batches.

    describe : two circles in red , one square in blue . </s>
    is there a circle ? yes </s> what colour is the circle ? red </s> is the circle blue ? no </s>
    how many circles ? two </s> is the square above the star ? yes </s>

A caption names every kind once, in any order; squares that keep triangles company come right after
them. Every question is answered in one word, and `</s>` ends an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.probes.toys.shapes.scenes import (
    _INDEX,
    COLOURS,
    COMPANY,
    GRID,
    MOST,
    SHAPES,
    Scenes,
    _gumbel,
    _uniform,
)

PLURALS = tuple(name + ("es" if name.endswith("s") else "s") for name in SHAPES)
NUMBERS = ("one", "two", "three")
SIDES = ("left", "right", "above", "below")
ANSWERS = ("yes", "no")
_SIGNS = ("<unk>", "<s>", "</s>", "<image>", ",", ".", "?", ":")
_WORDS = ("a", "in", "of", "the", "is", "there", "what", "colour", "how", "many", "describe")
WORDS = (*_SIGNS, *_WORDS, *ANSWERS, *SIDES, *NUMBERS, *COLOURS, *SHAPES, *PLURALS)
ID = {word: i for i, word in enumerate(WORDS)}
START, END, IMAGE = ID["<s>"], ID["</s>"], ID["<image>"]

QUESTIONS = ("existence", "colour", "attribute", "count", "relation")
# What a token that is learned is, for accuracies by kind.
ROLES = (*QUESTIONS, "caption count", "caption shape", "caption colour", "caption form", "end")
_SLOTS, _LONGEST, _BLANK = 4, 10, -1
LENGTH = _SLOTS * _LONGEST


@dataclass(frozen=True)
class Talk:
    """A batch of texts. B texts of LENGTH tokens

    Attributes:
        ids: token ids, `<unk>` after the end. [B, LENGTH]
        roles: for tokens to be learned, their index in `ROLES`; -1 for others. [B, LENGTH]
    """

    ids: Tensor
    roles: Tensor


def talk(account: Scenes, dice: torch.Generator, mix: Sequence[float] = (1, 1, 1, 1, 1)) -> Talk:
    """A caption or four questions for each scene, as someone tells it who takes it for `account`;
    `mix` is how often each of `QUESTIONS` is asked, in proportion."""
    ids, roles = _caption(account, dice)
    asked, wanted = zip(*(_question(account, dice, mix=mix) for _ in range(_SLOTS)), strict=True)
    ask = (_uniform(dice, len(account)) < 0.5)[:, None]
    ids = torch.where(ask, torch.cat(asked, 1), ids)
    roles = torch.where(ask, torch.cat(wanted, 1), roles)
    blank = ids == _BLANK
    order = blank.long().argsort(dim=1, stable=True)
    return Talk(ids.masked_fill(blank, 0).gather(1, order), roles.masked_fill(blank, -1).gather(1, order))


def _caption(account: Scenes, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    key = _uniform(dice, len(account), len(SHAPES))
    first, second = (_INDEX[name] for name in COMPANY)
    key[:, second] = torch.where(account.present[:, first], key[:, first] + 1e-4, key[:, second])
    order = (key + 2.0 * ~account.present).argsort(dim=1)[:, :MOST]
    there = account.present.gather(1, order)
    count, colour = account.count.gather(1, order), account.colour.gather(1, order)
    last = torch.arange(MOST, device=dice.device) == there.sum(1, keepdim=True) - 1
    name = torch.where(count > 1, ID[PLURALS[0]], ID[SHAPES[0]]) + order
    slots = torch.stack([
        ID["one"] - 1 + count, name, torch.full_like(name, ID["in"]), ID["red"] + colour,
        torch.where(last, ID["."], ID[","]),
    ], -1)  # fmt: skip
    slots = slots.masked_fill(~there[..., None], _BLANK).flatten(1)
    start = _constant(account, [ID["describe"], ID[":"]])
    rest = _constant(account, [END] + [_BLANK] * (LENGTH - 3 - slots.shape[1]))
    roles = [ROLES.index(f"caption {r}") for r in ("count", "shape", "form", "colour", "form")] * MOST
    roles = [-1, -1, *roles, ROLES.index("end")] + [-1] * (rest.shape[1] - 1)
    return torch.cat([start, slots, rest], 1), _constant(account, roles)


def asked(account: Scenes, dice: torch.Generator, kind: str) -> list[tuple[str, str] | None]:
    """A question of one of `QUESTIONS` about each scene and its answer; None where there is none to ask."""
    ids, roles = _question(account, dice, QUESTIONS.index(kind))
    found: list[tuple[str, str] | None] = []
    for row, role in zip(ids.tolist(), roles.tolist(), strict=True):
        words = [WORDS[i] for i in row[: row.index(END)] if i != _BLANK]
        found.append((" ".join(words[:-1]), words[-1]) if QUESTIONS.index(kind) in role else None)
    return found


def _question(
    account: Scenes, dice: torch.Generator, only: int | None = None, mix: Sequence[float] = (1, 1, 1, 1, 1)
) -> tuple[Tensor, Tensor]:
    """One question and its answer for each scene, of kind `only` or one drawn in proportion to `mix`."""
    present, batch = account.present, len(account)
    yes = _uniform(dice, batch) < 0.5
    maybe = _pick(torch.where(yes[:, None], present, ~present), dice)
    shown = _pick(present, dice)
    colour = account.colour.gather(1, shown[:, None])[:, 0]
    other = (colour + 1 + (_uniform(dice, batch) * (len(COLOURS) - 1)).long()) % len(COLOURS)
    said = torch.where(yes, ID["yes"], ID["no"])
    count = account.count.gather(1, shown[:, None])[:, 0]
    relation, possible = _relation(account, yes, dice)
    rows: list[list[str | int | Tensor]] = [
        ["is", "there", "a", ID[SHAPES[0]] + maybe, "?", said, END],
        ["what", "colour", "is", "the", ID[SHAPES[0]] + shown, "?", ID["red"] + colour, END],
        ["is", "the", ID[SHAPES[0]] + shown, ID["red"] + torch.where(yes, colour, other), "?", said, END],
        ["how", "many", ID[PLURALS[0]] + shown, "?", ID["one"] - 1 + count, END],
        ["is", "the", relation[0], relation[2], relation[3], "the", relation[1], "?", said, END],
    ]
    up_to = torch.tensor(mix, device=present.device).cumsum(0)
    kind = torch.bucketize(_uniform(dice, batch) * up_to[-1], up_to[:-1], right=True)
    kind = kind if only is None else torch.full_like(kind, only)
    kind = torch.where((kind == QUESTIONS.index("relation")) & ~possible, QUESTIONS.index("existence"), kind)
    every = torch.stack([_row(words, kind) for words in rows])  # [questions, B, _LONGEST]
    ids = every[kind, torch.arange(batch, device=dice.device)]
    ends = ids == END
    answer = torch.cat([ends[:, 1:], torch.zeros_like(ends[:, :1])], 1)
    roles = torch.where(answer, kind[:, None], torch.where(ends, ROLES.index("end"), -1))
    return ids, roles


def _relation(account: Scenes, yes: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two single shapes, the word between them and "of" or nothing [4, B]; whether there are two."""
    single = account.present & (account.count == 1) & (account.cells[:, :, 0] >= 0)
    score = _gumbel(dice, *single.shape).masked_fill(~single, -torch.inf)
    one, two = score.topk(2).indices.unbind(1)
    cells = account.cells[:, :, 0].clamp(min=0)
    a, b = (cells.gather(1, k[:, None])[:, 0] for k in (one, two))
    across, down = a % GRID - b % GRID, a // GRID - b // GRID
    level = (across == 0) | ((_uniform(dice, len(account)) < 0.5) & (down != 0))
    positive = torch.where(level, down, across) > 0
    side = torch.where(level, ID["above"], ID["left"]) + (positive == yes).long()
    of = torch.where(level, _BLANK, ID["of"])
    return torch.stack([ID[SHAPES[0]] + one, ID[SHAPES[0]] + two, side, of]), single.sum(1) > 1


def _row(words: list[str | int | Tensor], like: Tensor) -> Tensor:
    """A text of words and of token ids that differ between scenes. [B, _LONGEST]"""
    blank = [_BLANK] * (_LONGEST - len(words))
    ids = [ID[w] if isinstance(w, str) else w for w in [*words, *blank]]
    return torch.stack([w if isinstance(w, Tensor) else torch.full_like(like, w) for w in ids], 1)


def _pick(allowed: Tensor, dice: torch.Generator) -> Tensor:
    """One of the allowed entries of each row, with equal chances. [B]"""
    return _gumbel(dice, *allowed.shape).masked_fill(~allowed, -torch.inf).argmax(1)


def _constant(account: Scenes, row: list[int]) -> Tensor:
    return torch.tensor(row, device=account.present.device).expand(len(account), -1)
