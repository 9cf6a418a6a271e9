"""Figures on their way into a page: drawn in the light theme, with what changes in the dark one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from headscope.app.palette import Theme

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Chart:
    """A figure of a page.

    Attributes:
        id: the id of its element.
        alt: what it shows, in words.
        height: in pixels, so that the page does not jump when the figure is drawn.
        json: the figure and its two paints, ready for a `<script type="application/json">`.
    """

    id: str
    alt: str
    height: int
    json: Markup


def chart(id: str, alt: str, draw: Callable[[Theme], go.Figure]) -> Chart:
    """Draw a figure for a page in which the reader chooses the theme."""
    light, dark = draw("light"), draw("dark")
    content = json.loads(light.to_json())
    content["paint"] = {"light": paint(dark, light), "dark": paint(light, dark)}
    return Chart(id, alt, int(light.layout.height), script_json(content))


def paint(before: go.Figure, after: go.Figure) -> dict[str, Any]:
    """What turns one figure into the other: a relayout, and one restyle per trace."""
    old, new = before.to_plotly_json(), after.to_plotly_json()
    traces = [
        {path: [value] for path, value in _changes(a, b)}  # a restyle takes one value per trace
        for a, b in zip(old["data"], new["data"], strict=True)
    ]
    return {"layout": dict(_changes(old["layout"], new["layout"])), "traces": traces}


def script_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in, whatever text it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _changes(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths, as plotly writes them, at which plain values differ; data is the same in all themes."""
    if isinstance(new, dict):
        for key, value in new.items():
            yield from _changes(old[key], value, f"{path}.{key}" if path else key)
    elif isinstance(new, list | tuple) and new and all(isinstance(v, dict) for v in new):
        for i, value in enumerate(new):
            yield from _changes(old[i], value, f"{path}[{i}]")
    elif isinstance(new, str | list | tuple) and old != new:
        yield path, new
