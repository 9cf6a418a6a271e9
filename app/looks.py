"""How a role reads wherever it is shown: one name, one letter, one phrase; and how numbers do.

Roles that are not known here (a new detector's) get a phrase made of what their score means, so
that they appear everywhere by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_PHRASES = {
    "retrieval": "copy the answer out of a long context",
    "query_focused": "find in the context what the question asks for",
    "induction": "look at what followed the current token last time",
    "echo": "look at earlier occurrences of the current token",
    "previous_token": "look at the token just before",
    "active_dormant": "sleep on some kinds of text and work on others",
    "sink": "rest on the first token",
    "hidden_sink": "rest on a token hidden in the middle of the text",
    "image_centric": "look at the picture, off its sinks, while the answer is written",
    "vision_aware": "put out something else when the picture is taken away",
    "streaming": "lose nothing when cut to the first and the most recent tokens",
}
_TITLES = {
    "active_dormant": "active-dormant",
    "image_centric": "image-centric",
    "vision_aware": "vision-aware",
}


def letters(roles: Sequence[str]) -> dict[str, str]:
    """A capital letter for every role, from its name where one is left."""
    taken: dict[str, str] = {}
    for role in roles:
        spare = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        wanted = [c for c in role.upper() if c.isalpha()]
        taken[role] = next((c for c in [*wanted, *spare] if c not in taken.values()), "?")
    return taken


def story(roles: Sequence[str]) -> list[str]:
    """The roles from what finds content to what rests; new ones at the end."""
    known = [r for r in _PHRASES if r in roles]
    return known + [r for r in roles if r not in _PHRASES]


def title(role: str) -> str:
    """The role as prose spells it."""
    return _TITLES.get(role, role.replace("_", " "))


def phrase(role: str, about: str = "") -> str:
    """What its heads do, as the end of the sentence "9 heads ...".

    Args:
        role: the role.
        about: what its score means, for roles that have no phrase here.
    """
    return _PHRASES.get(role) or f"score high on: {about or title(role)}"


def number(value: float, digits: int = 3) -> str:
    """A score for people; machines get the column's own number."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 10_000:
        return f"{value:.{digits - 1}e}"
    least = 10**-digits
    if 0 < abs(value) < least / 2:  # not nothing, but nothing to show
        return f"{'<' if value > 0 else '>-'}{least:.{digits}f}"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.1f}"


def with_error(value: float, error: float) -> str:
    """`0.412 ± 0.031`; the second part only where a standard error is known."""
    return number(value) + (f" ± {number(error)}" if math.isfinite(error) else "")
