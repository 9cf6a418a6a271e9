"""Figures about one head, as shares of a width: where it stands among all heads, and by kind of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headscope.app.headview import Score, row_of
from headscope.app.looks import with_error
from headscope.app.palette import hue_of

if TYPE_CHECKING:
    from headscope.heads import HeadMap


@dataclass(frozen=True)
class Line:
    """One score of a figure; places are in percent of its width.

    Attributes:
        name: the score, or the kind of text.
        says: its value, in words.
        about: more words, shown on demand.
        at: where the value stands.
        error: two standard errors to either side, as far as they can be drawn.
        hue: its colour in a style.
        spread: the middle 90% and the middle half of all heads, where they are shown.
    """

    name: str
    says: str
    about: str
    at: float
    error: tuple[float, float]
    hue: str
    spread: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Lines:
    """Lines on one scale, and the scale's ticks as places with their words."""

    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float = 0.0


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    def at(self, value: float) -> float:
        """Percent of the width; the nearest end's beyond."""
        return 100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def around(self, value: float, error: float) -> tuple[float, float]:
        wide = 2 * error if np.isfinite(error) else 0.0
        return self.at(value - wide), self.at(value + wide)

    def lines(self, lines: Sequence[Line]) -> Lines:
        step = _step(self.high - self.low)
        ticks = np.arange(math.ceil(self.low / step), math.floor(self.high / step) + 1) * step
        digits = max(0, -math.floor(math.log10(step)))
        return Lines(tuple(lines), tuple((self.at(v), f"{v:.{digits}f}") for v in ticks), self.at(0.0))


def _step(width: float) -> float:
    """The finest step of 1, 2 or 5 that leaves five at most."""
    rough = width / 5 * (1 - 1e-9)
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough)


def standing(headmap: HeadMap, scores: Sequence[Score]) -> Lines:
    """Scores between 0 and 1 of one head, over the spread of all heads, in the hues of their roles."""
    scale, of_role = _Scale(0.0, 1.0), {headmap.rule(r).score: hue_of(r) for r in headmap.roles}
    found = []
    for s in scores:
        q05, q25, q75, q95 = (
            scale.at(q) for q in headmap.frame[s.name].quantile([0.05, 0.25, 0.75, 0.95]).tolist()
        )
        about = f"{s.name}: {s.info.about}; rank {s.rank} of {s.of}"
        error, hue = scale.around(s.value, s.error), of_role.get(s.name, "var(--muted)")
        words = with_error(s.value, s.error)
        found.append(Line(s.name, words, about, scale.at(s.value), error, hue, ((q05, q95), (q25, q75))))
    return scale.lines(found)


def kind_bars(headmap: HeadMap, layer: int, head: int, prefix: str, *, role: str | None = None) -> Lines:
    """A score that exists once per kind of text (`<prefix><kind>` columns), for one head."""
    row = row_of(headmap, layer, head)
    kinds = [c.removeprefix(prefix) for c in headmap.meta.columns if c.startswith(prefix)]
    values = [float(row[f"{prefix}{kind}"]) for kind in kinds]
    errors = [float(row.get(f"{prefix}{kind}_se", np.nan)) for kind in kinds]
    if all(headmap.meta.columns[f"{prefix}{kind}"].high == 1 for kind in kinds):
        scale = _Scale(0.0, 1.0)
    else:
        ends = np.nan_to_num([0.0, *values]) + 2 * np.outer([-1, 1], np.nan_to_num([0.0, *errors]))
        scale = _Scale(min(0.0, float(min(values, default=0.0))), float(ends.max()) or 1.0)
    hue = hue_of(role) if role in headmap.roles and role else "var(--muted)"
    return scale.lines(
        [
            Line(kind, with_error(v, e), kind, scale.at(v), scale.around(v, e), hue)
            for kind, v, e in zip(kinds, values, errors, strict=True)
            if np.isfinite(v)
        ]
    )
