"""From circuits to the matrices of one attention layer, in the form that Llama and GPT-2 share.

Matrices map the normalised stream, whose norm's gain restores its size, to queries, keys and
values. Query heads that share a key head share its keys: those hold every code and flag that any
of the heads asks for, and each head's query picks its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.probes.errors import HeadscopeError
from headscope.probes.toys.planted.circuits import DRAINED, SHARP, Circuit
from headscope.probes.toys.planted.spaces import (
    CODE,
    CODES,
    CONSTANT,
    FREQUENCIES,
    PAIRS,
    STILL,
    WIDTH,
    code_of,
    frequencies,
    kernel,
    spaces,
)  # fmt: skip

_VALUES = ("bos", "delimiter", "answer")  # flags that a value holds after the word's code


@dataclass(frozen=True)
class Form:
    """Where a head keeps what.

    Attributes:
        width: of a head.
        cosine, sine: dimensions of the fast pairs.
        still: dimensions for content.
        rotary: whether positions turn queries and keys; the stream holds them otherwise.
    """

    width: int
    cosine: tuple[int, ...]
    sine: tuple[int, ...]
    still: tuple[int, ...]
    rotary: bool


ROTARY = Form(
    2 * PAIRS,
    tuple(range(FREQUENCIES)),
    tuple(range(PAIRS, PAIRS + FREQUENCIES)),
    tuple(d for k in reversed(range(STILL, PAIRS)) for d in (k, PAIRS + k)),  # the slowest first
    rotary=True,
)
LEARNED = Form(
    96, tuple(range(FREQUENCIES)), tuple(range(FREQUENCIES, 2 * FREQUENCIES)),
    tuple(range(2 * FREQUENCIES, 96)), rotary=False,
)  # fmt: skip


def query_key(form: Form, group: Sequence[Circuit]) -> tuple[list[Tensor], Tensor]:
    """W_Q of each head of a group and the W_K they share. [width, WIDTH] each"""
    slots, where = _slots(form, group), spaces()
    key = torch.zeros(form.width, WIDTH)
    for name, dims in slots.items():
        key[dims, _columns(name)] = 1.0
    if form.rotary:
        key[list(form.cosine), where["constant"].start] = 1 / CONSTANT
    else:
        key[[*form.cosine, *form.sine], _columns("place")] = 1.0
    # The first token stands nowhere: a head that rests on it does so from every distance.
    key[list(form.cosine), where["bos"]] = -1.0
    return [_query(form, circuit, slots) * form.width**0.5 for circuit in group], key


def value(form: Form) -> Tensor:
    """W_V, the same for all heads: the word's code, then flags. [width, WIDTH]"""
    matrix = torch.zeros(form.width, WIDTH)
    at = 0
    for name in ("word", *_VALUES):
        columns = _columns(name)
        matrix[range(at, at + len(columns)), columns] = 1.0
        at += len(columns)
    return matrix


def output(form: Form, circuit: Circuit) -> Tensor:
    """W_O: the word's code to where the circuit writes it, nothing for drained tokens. [WIDTH, width]"""
    where = spaces()
    matrix = torch.zeros(WIDTH, form.width)
    matrix[_columns(circuit.writes), range(CODE)] = 1.0
    for flag, word in DRAINED.items() if circuit.drained else ():
        matrix[where[circuit.writes], CODE + _VALUES.index(flag)] = -code_of(word)
    if circuit.raises:
        seen, raised = circuit.raises
        matrix[where[raised], CODE + _VALUES.index(seen)] = 1.0
    return matrix * circuit.gain


def _columns(name: str) -> list[int]:
    part = spaces()[name]
    return list(range(part.start, part.stop))


def _slots(form: Form, group: Sequence[Circuit]) -> dict[str, list[int]]:
    """Dimensions of the keys for every code and flag that some head of the group asks for."""
    asked = dict[str, None]()
    for circuit in group:
        asked |= {key: None for _, key, _ in (*circuit.matches, *circuit.flags)}
        asked |= {circuit.seeks[0]: None} if circuit.seeks else {}
    slots, free = {}, list(form.still)
    for name in asked:
        size = CODE if name in CODES else 1
        if size > len(free):
            names = ", ".join(circuit.name for circuit in group)
            raise HeadscopeError(f"The heads {names} ask for more than one key of {form.width} can hold.")
        slots[name], free = free[:size], free[size:]
    return slots


def _query(form: Form, circuit: Circuit, slots: dict[str, list[int]]) -> Tensor:
    query, one = torch.zeros(form.width, WIDTH), _columns("constant")[0]
    for mine, theirs, weight in circuit.matches:
        query[slots[theirs], _columns(mine)] += weight
    for mine, theirs, weight in circuit.flags:
        column, size = (one, CONSTANT) if mine == "constant" else (_columns(mine)[0], 1.0)
        query[slots[theirs][0], column] += weight / size
    if circuit.seeks:
        theirs, word, weight = circuit.seeks
        query[slots[theirs], one] += weight * code_of(word) / CONSTANT
    cosine, sine = _turned(circuit)
    place = _columns("place")
    for k in range(FREQUENCIES):
        if form.rotary:  # the rotation itself brings in where the query stands
            query[form.cosine[k], one] = cosine[k] / CONSTANT
            query[form.sine[k], one] = -sine[k] / CONSTANT
        else:
            c, s = place[k], place[FREQUENCIES + k]
            query[form.cosine[k], [c, s]] = torch.stack([cosine[k], sine[k]])
            query[form.sine[k], [c, s]] = torch.stack([-sine[k], cosine[k]])
    return query


def _turned(circuit: Circuit) -> tuple[Tensor, Tensor]:
    """Amplitudes a, b of a score sum_k a_k cos(t w_k) + b_k sin(t w_k) at distance t."""
    if circuit.nearness:  # alike at all frequencies: each stops counting where it has turned once
        return torch.full((FREQUENCIES,), circuit.nearness / FREQUENCIES), torch.zeros(FREQUENCIES)
    if circuit.window:
        at = torch.arange(circuit.window, dtype=torch.float64)
        strength = torch.full_like(at, 4 * SHARP / circuit.window)
    else:
        at = torch.tensor(sorted(circuit.distances), dtype=torch.float64)
        wanted = torch.tensor([circuit.distances[int(d)] for d in at], dtype=torch.float64)
        strength = torch.linalg.solve(kernel(at[:, None] - at), wanted) if len(at) else wanted
    angles = frequencies()
    weight = angles.sqrt() / angles.sqrt().sum()
    turn = at[:, None] * angles
    share = strength[:, None] * weight
    return (share * turn.cos()).sum(0).float(), (share * turn.sin()).sum(0).float()
