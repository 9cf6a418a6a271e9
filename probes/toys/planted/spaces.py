"""The planted models' residual stream: which dimensions hold what, and the code of every word."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from headscope.probes.toys.planted import words

CODE = 32  # dimensions of a word's code: as many +1 as -1
_LIMIT = 12  # no two words' codes have a product above this; a code's own is CODE
CONSTANT = 500.0  # so large that whatever heads add leaves a norm where it was
FLAGS = ("bos", "delimiter", "answer", "code", "value", "content", "stop", "asked")
CODES = ("word", "back1", "back2", "back3", "out", "scratch")
# Of the 64 rotary pairs of a head of width 128 the first 14 tell positions apart; from the 25th on
# they turn by at most 0.053 in 1,024 tokens and carry content.
FREQUENCIES, STILL, PAIRS, BASE = 14, 24, 64, 2.9e11


def frequencies() -> Tensor:
    """Angles by which the fast pairs turn from one position to the next, float64. [FREQUENCIES]"""
    return BASE ** (-torch.arange(FREQUENCIES, dtype=torch.float64) / PAIRS)


def spaces() -> dict[str, slice]:
    """Where each part of the residual stream lies; `place` is used by models with learned positions."""
    sizes = {"constant": 2} | dict.fromkeys(FLAGS, 1) | dict.fromkeys(CODES, CODE)
    sizes["place"] = 2 * FREQUENCIES
    found, at = {}, 0
    for name, size in sizes.items():
        found[name] = slice(at, at + size)
        at += size
    return found


WIDTH = 240  # of the stream; a few dimensions stay empty, so that many numbers of heads divide it
NORM = float((2 * CONSTANT**2 / WIDTH) ** 0.5)


@cache
def codes() -> Tensor:
    """A code of +1 and -1 for every word, found by rejection: far from all others. [V, CODE]"""
    generator = torch.Generator().manual_seed(0)
    half = torch.cat([torch.ones(CODE // 2), -torch.ones(CODE // 2)])
    count = len(words.vocabulary())
    found = torch.zeros(count, CODE)
    have = 0
    while have < count:
        order = torch.rand(4096, CODE, generator=generator).argsort(-1)
        drawn = half[order]
        free = drawn[(drawn @ found[:have].T <= _LIMIT).all(-1)]
        for candidate in free:
            if have < count and bool((found[:have] @ candidate <= _LIMIT).all()):
                found[have] = candidate
                have += 1
    return found


def code_of(word: str) -> Tensor:
    """[CODE]"""
    return codes()[words.vocabulary().index(word)]


def embeddings() -> Tensor:
    """What the stream holds of a word before any head: constant, flags, code. [V, WIDTH]"""
    where, names = spaces(), words.vocabulary()
    flagged = {
        "bos": {words.BOS}, "delimiter": {words.DELIMITER}, "answer": {words.ANSWER},
        "code": words.code_words(), "value": words.values(), "content": set(words.hay_words()[::4]),
        "stop": {"."},
    }  # fmt: skip
    table = torch.zeros(len(names), WIDTH)
    table[:, where["constant"]] = torch.tensor([CONSTANT, -CONSTANT])  # no mean for a layer norm to take
    table[:, where["word"]] = codes()
    for flag, members in flagged.items():
        table[:, where[flag]] = torch.tensor([[float(name in members)] for name in names])
    return table


def places(count: int) -> Tensor:
    """Learned positions: cosine and sine of each angle. [count, WIDTH]"""
    turn = torch.arange(count, dtype=torch.float64)[:, None] * frequencies()
    table = torch.zeros(count, WIDTH)
    table[:, spaces()["place"]] = torch.cat([turn.cos(), turn.sin()], -1).float()
    return table


def kernel(distance: Tensor) -> Tensor:
    """How much looking at distance 0 sees at `distance`: 1 at 0, at most 0.86 elsewhere. [...]"""
    angles = frequencies()
    weight = angles.sqrt() / angles.sqrt().sum()
    return (weight * (distance.double()[..., None] * angles).cos()).sum(-1)
