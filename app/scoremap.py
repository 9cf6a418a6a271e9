"""One score at a glance: an inline SVG of every head in its colour, without any script.

The same colours, ranges and outlines as the interactive figure, in a fraction of the time that a
browser needs for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

from headscope.app.axes import limits
from headscope.app.labelmap import CELL, drawn, place
from headscope.app.looks import number, title
from headscope.app.palette import COLOURS, NEUTRAL, Theme, hues, ramp, shade

if TYPE_CHECKING:
    from headscope.heads import HeadMap

_TICKS = 5  # of the scale


def score_svg(
    headmap: HeadMap, column: str, *, role: str | None = None, marks: Sequence[str] = (),
    theme: Theme = "light", alt: str = "",
) -> Markup:  # fmt: skip
    """The map of a score as markup: its scale, and an SVG whose cells say in words what they are.

    Args:
        headmap: the map.
        column: a score column.
        role: the role whose hue to use.
        marks: roles whose heads to outline: one in the colour of ink, several each in its hue, one
            inside the other.
        theme: the set of colours.
        alt: what it shows, in words.
    """
    values, info = headmap.frame[column].to_numpy(float), headmap.meta.columns.get(column)
    hue = hues(headmap.roles)[role] if role else NEUTRAL
    low, high = limits(values, info.low if info else None)
    colours = ramp(hue, theme, diverging=low < 0)
    fills = [shade(colours, (v - low) / (high - low)) if np.isfinite(v) else "none" for v in values]
    cells = Markup("".join(_cells(headmap, column, fills)))
    return _scale(colours, low, high) + drawn(headmap, alt, cells + _outlines(headmap, marks, theme))


def _cells(headmap: HeadMap, column: str, fills: Sequence[str]) -> list[str]:
    """The markup of every head; everything in it but numbers is escaped."""
    frame = headmap.frame
    name, words = escape(column), _roles(headmap)
    errors = frame.get(f"{column}_se", frame[column] * np.nan)
    found = []
    for layer, head, kv, value, error, said, fill in zip(
        frame["layer"], frame["head"], frame["kv_head"], frame[column], errors, words, fills, strict=True
    ):
        x, y = place(headmap, int(layer), int(head))
        more = f" ± {error:.4f}" if np.isfinite(error) else ""
        says = f"{value:.4f}{more}" if np.isfinite(value) else "unknown"
        found.append(
            f'<g data-layer="{layer}" data-head="{head}">'
            f"<title>L{layer}H{head} (KV head {kv}): {name} {says}{said}</title>"
            f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{fill}"/></g>'
        )
    return found


def _roles(headmap: HeadMap) -> list[str]:
    """What every head is labelled, escaped; nothing where the map has no roles."""
    if not headmap.roles:
        return [""] * len(headmap.frame)
    words = [str(escape(title(role))) for role in headmap.roles]
    flags = headmap.labels()[headmap.roles].to_numpy(bool)
    return [
        "; " + (", ".join(w for w, on in zip(words, row, strict=True) if on) or "no label") for row in flags
    ]


def _outlines(headmap: HeadMap, marks: Sequence[str], theme: Theme) -> Markup:
    """A frame around each labelled cell; clicks go through it."""
    ink, colours, found = COLOURS[theme]["ink"], hues(headmap.roles), []
    for i, name in enumerate(marks):
        inset = 1 + 3 * (i % 4)
        labelled = headmap.frame[headmap.frame[headmap.rule(name).column].astype(bool)]
        side = CELL - 2 * inset
        places = (
            place(headmap, int(layer), int(head))
            for layer, head in zip(labelled["layer"], labelled["head"], strict=True)
        )
        path = "".join(f"M{x + inset} {y + inset}h{side}v{side}h{-side}z" for x, y in places)
        frame = (
            '<path class="outline" d="{}" fill="none" stroke="{}" stroke-width="2" pointer-events="none"/>'
        )
        colour = ink if len(marks) == 1 else colours[name].on(theme)
        found.append(Markup(frame).format(path, colour))
    return Markup("").join(found)


def _scale(colours: Sequence[Sequence[object]], low: float, high: float) -> Markup:
    """The colours with their values."""
    stops = ", ".join(f"{colour} {100 * float(str(at)):g}%" for at, colour in colours)
    ticks = Markup("").join(
        Markup("<span>{}</span>").format(number(float(v))) for v in np.linspace(low, high, _TICKS)
    )
    bar = '<div class="scale"><b style="background:linear-gradient(90deg, {})"></b>{}</div>'
    return Markup(bar).format(stops, ticks)
