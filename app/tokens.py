"""Tokens as people can read them: nothing invisible, nothing that acts, the far middle left out."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_SHOWN = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
# Control, format (bidirectional overrides, zero width), surrogate, private; blanks that are no space.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def visible(token: str) -> str:
    """The token with everything that cannot be seen, or that would reorder its surroundings, named.

    The result is plain text: whoever puts it into HTML still has to escape it.
    """
    if not token.strip(" "):
        return "␣" * len(token) or "∅"
    return "".join(_visible(c) for c in token)


def _visible(c: str) -> str:
    if c in _SHOWN:
        return _SHOWN[c]
    if c != " " and unicodedata.category(c) in _HIDDEN:
        return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"
    return c


@dataclass(frozen=True)
class Piece:
    """One token of a strip, or a gap.

    Attributes:
        text: the visible token; empty for a gap.
        position: its position in the prompt; for a gap, of the first token left out.
        mass: attention it gets from the query; 0 where it is not among the heaviest keys.
        query: whether it is the query.
        future: whether it comes after the query, which cannot see it.
        span: the name of the labelled span it lies in, or empty.
        skipped: for a gap, how many tokens are left out.
    """

    text: str
    position: int
    mass: float = 0.0
    query: bool = False
    future: bool = False
    span: str = ""
    skipped: int = 0


def strip(
    tokens: Sequence[str],
    query: int,
    masses: Mapping[int, float],
    spans: Mapping[str, tuple[int, int]],
    *,
    around: int = 7,
    after: int = 3,
) -> list[Piece]:
    """The query and its heaviest keys in their surroundings, everything else elided.

    Args:
        tokens: the whole prompt.
        query: position of the query.
        masses: attention on the heaviest keys, by position.
        spans: labelled spans, half-open; where they overlap, the shortest names a token.
        around: tokens shown on either side of every key and before the query.
        after: tokens shown after the query: what it is about to say.
    """
    keep: set[int] = set(range(query - around, query + after + 1))
    for key in masses:
        keep |= set(range(key - around, key + around + 1))
    keep = {i for i in keep if 0 <= i < len(tokens) and i <= query + after}
    pieces: list[Piece] = []
    last = -1
    for i in sorted(keep):
        if i - last > 2:
            pieces.append(Piece("", last + 1, skipped=i - last - 1))
        elif i - last == 2:  # a gap of one token would take more room than the token
            pieces.append(_piece(tokens, i - 1, query, masses, spans))
        pieces.append(_piece(tokens, i, query, masses, spans))
        last = i
    return pieces


def _piece(
    tokens: Sequence[str],
    i: int,
    query: int,
    masses: Mapping[int, float],
    spans: Mapping[str, tuple[int, int]],
) -> Piece:
    return Piece(visible(tokens[i]), i, masses.get(i, 0.0), i == query, i > query, _span(i, spans.items()))


def _span(i: int, spans: Iterable[tuple[str, tuple[int, int]]]) -> str:
    inside = [(stop - start, name) for name, (start, stop) in spans if start <= i < stop]
    return min(inside)[1] if inside else ""
