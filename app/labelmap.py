"""The whole map at a glance: an inline SVG of every head's labels, without any script.

A cell is filled with the hue of its rarest role, faintly where many heads share that role; its
other roles are the marks at its foot, those that many heads share left out.
Colours are CSS variables `--role-<name>`, so that a page changes theme without redrawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from headscope.app.looks import title
from headscope.app.palette import COLOURS, Theme, hue_of, hues, variable

if TYPE_CHECKING:
    from headscope.heads import HeadMap

CELL, _GAP, _LEFT, _TOP = 20, 2, 34, 4
_GROUP_GAP = 7  # between KV groups


def theme_variables(roles: list[str], theme: Theme) -> Markup:
    """CSS declarations of every colour of a theme."""
    page = {f"--{name}": value for name, value in COLOURS[theme].items()}
    role = {variable(name): hue.on(theme) for name, hue in hues(roles).items()}
    return Markup(" ").join(Markup("{}:{};").format(*item) for item in (page | role).items())


def label_map(headmap: HeadMap) -> Markup:
    """The map as an SVG element; every cell says in words what it is."""
    g = headmap.meta.geometry
    text = f"Map of {g.layers} layers by {g.heads} heads of {headmap.meta.model}, coloured by role."
    return drawn(headmap, text, _cells(headmap))


def drawn(headmap: HeadMap, text: str, cells: Markup) -> Markup:
    """A map of these cells as an SVG element, which `text` describes."""
    g = headmap.meta.geometry
    width = _LEFT + g.layers * (CELL + _GAP)
    height = _top(headmap, g.heads - 1) + CELL + 30
    style = f"min-width:{_LEFT + 15 * g.layers}px;max-width:{round(width * 1.7)}px"
    start = Markup('<svg class="labelmap" viewBox="0 0 {} {}" role="img" aria-label="{}" style="{}">')
    return start.format(width, height, text, style) + cells + _ticks(headmap, height) + Markup("</svg>")


def place(headmap: HeadMap, layer: int, head: int) -> tuple[int, int]:
    """The left and upper edge of a head's cell, whose sides are `CELL`."""
    return _LEFT + layer * (CELL + _GAP), _top(headmap, head)


def common(headmap: HeadMap, share: float = 0.3) -> list[str]:
    """The roles that more than `share` of all heads have."""
    return [r for r in _rarest_first(headmap) if headmap.frame[headmap.rule(r).column].mean() > share]


def _rarest_first(headmap: HeadMap) -> list[str]:
    return sorted(headmap.roles, key=lambda r: int(headmap.frame[headmap.rule(r).column].sum()))


@dataclass(frozen=True)
class _Look:
    """How all heads with the same roles look, escaped: a big map has few of these."""

    words: Markup
    fill: Markup
    marks: tuple[Markup, ...]

    @classmethod
    def of(cls, roles: Sequence[str], faint: Sequence[str]) -> _Look:
        fill = hue_of(roles[0]) if roles else "var(--empty)"
        strength = f"color-mix(in srgb, {fill} 32%, var(--empty))" if roles and roles[0] in faint else fill
        further = [role for role in roles[1:] if role not in faint][:3]
        words = ", ".join(map(title, roles)) or "no label"
        return cls(escape(words), escape(strength), tuple(escape(hue_of(role)) for role in further))

    def cell(self, layer: int, head: int, kv: int, y: int) -> str:
        """The markup of one head; everything in it but numbers was escaped before."""
        x = _LEFT + layer * (CELL + _GAP)
        marks = "".join(
            f'<circle cx="{x + 4.5 + 5.6 * i:g}" cy="{y + CELL - 4.5}" r="2.6" style="fill:{mark}" '
            'stroke="var(--paper)"/>'
            for i, mark in enumerate(self.marks)
        )
        return (
            f'<g data-layer="{layer}" data-head="{head}">'
            f"<title>L{layer}H{head} (KV head {kv}): {self.words}</title>"
            f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="3" style="fill:{self.fill}"/>'
            f"{marks}</g>"
        )


def _cells(headmap: HeadMap) -> Markup:
    order, faint, g = _rarest_first(headmap), common(headmap), headmap.meta.geometry
    places = [(g.kv_head(head), _top(headmap, head)) for head in range(g.heads)]
    looks: dict[tuple[bool, ...], _Look] = {}
    found = []
    for layer, head, *flags in headmap.labels()[["layer", "head", *order]].itertuples(index=False):
        key = tuple(map(bool, flags))
        if key not in looks:
            looks[key] = _Look.of([r for r, on in zip(order, key, strict=True) if on], faint)
        found.append(looks[key].cell(int(layer), int(head), *places[head]))
    return Markup("".join(found))


def _top(headmap: HeadMap, head: int) -> int:
    g = headmap.meta.geometry
    gaps = g.kv_head(head) if g.group_size > 1 and g.kv_heads > 1 else 0
    return _TOP + head * (CELL + _GAP) + gaps * _GROUP_GAP


def _ticks(headmap: HeadMap, height: int) -> Markup:
    """Layer numbers below, head numbers on the left."""
    g = headmap.meta.geometry
    every = 1 if g.layers <= 16 else 5
    columns = [_text(_LEFT + i * (CELL + _GAP) + CELL / 2, height - 18, i) for i in range(0, g.layers, every)]
    rows = [
        _text(_LEFT - 7, _top(headmap, h) + CELL / 2 + 3.5, h, "end")
        for h in range(0, g.heads, 1 if g.heads <= 16 else max(g.group_size, 4))
    ]
    middle = (_top(headmap, g.heads - 1) + CELL) / 2
    names = [
        _text(_LEFT + g.layers * (CELL + _GAP) / 2, height - 4, "layer"),
        Markup('<g transform="translate(9 {:g}) rotate(-90)">{}</g>').format(middle, _text(0, 0, "head")),
    ]
    return Markup("").join([*columns, *rows, *names])


def _text(x: float, y: float, text: object, anchor: str = "middle") -> Markup:
    element = '<text x="{:g}" y="{:g}" text-anchor="{}" fill="var(--muted)" font-size="10">{}</text>'
    return Markup(element).format(x, y, anchor, text)
