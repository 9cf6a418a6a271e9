"""Colours: one hue per role in both themes, and the ramps of the maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

Theme = Literal["light", "dark"]


class Hue(NamedTuple):
    """One colour in both themes, and its nearest name in a terminal."""

    light: str
    dark: str
    terminal: str

    def on(self, theme: Theme) -> str:
        return self.light if theme == "light" else self.dark


_HUES = {
    "vermilion": Hue("#c8401a", "#ff8a5c", "bright_red"),
    "blue": Hue("#2456c8", "#7ba7ff", "bright_blue"),
    "teal": Hue("#0b7a75", "#3fd0c4", "cyan"),
    "violet": Hue("#7a35b8", "#c79bff", "magenta"),
    "slate": Hue("#5b6b82", "#93a4bd", "bright_black"),
    "gold": Hue("#a8750a", "#f2bd42", "yellow"),
    "pink": Hue("#c02c70", "#ff86b7", "bright_magenta"),
    "green": Hue("#3d7d1f", "#8fd06a", "green"),
    "sky": Hue("#0a76a8", "#62c4f0", "bright_cyan"),
    "brown": Hue("#85503a", "#d3a58e", "red"),
}
NEUTRAL = _HUES["slate"]  # of scores that belong to no role

_KNOWN = {
    "retrieval": "vermilion",
    "induction": "blue",
    "echo": "teal",
    "previous_token": "violet",
    "streaming": "slate",
    "sink": "gold",
    "active_dormant": "pink",
    "hidden_sink": "brown",
    "image_centric": "green",
    "vision_aware": "sky",
}
# paper, ink, muted ink, faint line, empty cell
COLOURS: dict[Theme, dict[str, str]] = {
    "light": {
        "paper": "#fffdf9",
        "ink": "#1f2328",
        "muted": "#667085",
        "line": "#e4e0d8",
        "empty": "#f1eee7",
    },
    "dark": {"paper": "#16181d", "ink": "#e9e7e2", "muted": "#98a1b0", "line": "#2c3038", "empty": "#22252c"},
}
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def hues(roles: Sequence[str]) -> dict[str, Hue]:
    """A hue for every role: its own if it is known, the next free one otherwise."""
    taken = {_KNOWN[r] for r in roles if r in _KNOWN}
    free = [name for name in _HUES if name not in taken] or list(_HUES)
    new = [r for r in roles if r not in _KNOWN]
    names = {r: free[i % len(free)] for i, r in enumerate(new)}
    return {r: _HUES[_KNOWN.get(r) or names[r]] for r in roles}


def variable(role: str) -> str:
    """The CSS variable of a role's hue.

    A role is text from a file: only what can be part of a name may stand in a style.
    """
    return f"--role-{re.sub(r'[^0-9A-Za-z_-]', '_', role)}"


def hue_of(role: str) -> str:
    """A role's hue in a style."""
    return f"var({variable(role)})"


def ramp(hue: Hue, theme: Theme, *, diverging: bool = False) -> list[list[Any]]:
    """From an empty cell to the full hue; through the empty cell where scores have a sign."""
    empty, full = COLOURS[theme]["empty"], hue.on(theme)
    middle = mix(empty, full, 0.45)
    up: list[tuple[float, str]] = [(0.0, empty), (0.5, middle), (1.0, full)]
    if not diverging:
        return [[at, colour] for at, colour in up]
    negative = _HUES["brown" if hue != _HUES["brown"] else "sky"].on(theme)
    down = [[0.0, negative], [0.25, mix(empty, negative, 0.45)]]
    return [*down, *([0.5 + at / 2, colour] for at, colour in up)]


def shade(colours: Sequence[Sequence[Any]], t: float) -> str:
    """The colour of a ramp at `t`, 0 ... 1; the nearest end's beyond."""
    for (a, below), (b, above) in pairwise(colours):
        if t <= b:
            return mix(below, above, max(0.0, (t - a) / (b - a)))
    return str(colours[-1][1])


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def alpha(colour: str, opacity: float) -> str:
    """The colour, seen through."""
    return "rgba({},{},{},{})".format(*_rgb(colour), opacity)


def mix(a: str, b: str, t: float) -> str:
    """From `a` (t = 0) to `b` (t = 1)."""
    return "#{:02x}{:02x}{:02x}".format(
        *(round(p + (q - p) * t) for p, q in zip(_rgb(a), _rgb(b), strict=True))
    )
