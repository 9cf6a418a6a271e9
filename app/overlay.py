"""A head's look at a picture, as a picture: the same in report, notebook and dashboard."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from headscope.heads import Look

_SIDE = 384  # pixels of the longer side of a panel, at least
_MOST = 768  # and at most
_HEAT = np.array([214.0, 0.0, 108.0])  # a colour that no ramp of the labels uses
_FADED, _STRONGEST, _GAP = 0.6, 0.75, 12


def mass_map(look: Look, width: int, height: int) -> NDArray[np.float64]:
    """Mass per pixel: every image token's mass spread evenly over the rectangle that it shows.

    The sum is the head's mass on the picture, less what lies outside of it (padding) or on tokens
    that show no part of it (ends of rows). Views of the same place add up. [height, width]
    """
    found = np.zeros((height, width))
    for view in look.views:
        for index, position in enumerate(view.positions):
            x0, x1, y0, y1 = _pixels(view.box, index, view.rows, view.columns, width, height)
            area = max(1, (x1 - x0) * (y1 - y0))
            inside = (slice(max(0, y0), max(0, y1)), slice(max(0, x0), max(0, x1)))
            found[inside] += look.mass.get(position, 0.0) / area
    return found


def overlay(look: Look) -> Image:
    """Two panels: the picture, and the picture in grey with the head's mass over it.

    Colour is strongest at the place with the most mass per area; visual sinks are outlined.
    """
    from PIL import Image, ImageDraw

    width, height = _size(look)
    picture = look.picture.image.resize((width, height), Image.Resampling.NEAREST)
    heat = mass_map(look, width, height)
    alpha = _STRONGEST * heat / max(float(heat.max()), 1e-12)
    grey = 255 - _FADED * (255 - np.asarray(picture.convert("L"), float)[..., None].repeat(3, -1))
    mixed = grey * (1 - alpha[..., None]) + _HEAT * alpha[..., None]
    panel = Image.fromarray(mixed.round().astype(np.uint8))
    pen = ImageDraw.Draw(panel)
    for view in look.views:
        for index, position in enumerate(view.positions):
            if position in look.sinks:
                x0, x1, y0, y1 = _pixels(view.box, index, view.rows, view.columns, width, height)
                pen.rectangle((x0 + 1, y0 + 1, x1 - 2, y1 - 2), outline="black", width=2)
    both = Image.new("RGB", (2 * width + _GAP, height), "white")
    both.paste(picture, (0, 0))
    both.paste(panel, (width + _GAP, 0))
    return both


def overlay_uri(look: Look) -> str:
    """`overlay` as the source of an HTML image."""
    store = io.BytesIO()
    overlay(look).save(store, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(store.getvalue()).decode()


def overlay_words(look: Look) -> str:
    """How much of the row lies on the picture, and on visual sinks, in words."""
    positions = {p for view in look.views for p in view.positions}
    mass = sum(look.mass.get(p, 0.0) for p in positions)
    words = f"{mass:.0%} of its attention on the picture"
    sinks = look.sinks & positions
    if sinks:
        count = f"{len(sinks)} visual sink{'s' if len(sinks) > 1 else ''}"
        words += f", {sum(look.mass.get(p, 0.0) for p in sinks):.0%} of all on {count} (outlined)"
    return words


def _size(look: Look) -> tuple[int, int]:
    """Pixels of a panel: the picture's shape, neither tiny nor huge."""
    longest = max(look.picture.width, look.picture.height)
    scale = min(max(_SIDE, longest), _MOST) / longest
    return max(1, round(look.picture.width * scale)), max(1, round(look.picture.height * scale))


def _pixels(
    box: tuple[float, float, float, float], index: int, rows: int, columns: int, width: int, height: int
) -> tuple[int, int, int, int]:
    """Left, right, top and bottom edge of a token's rectangle; may lie outside of the picture."""
    left, top, right, bottom = box
    row, column = divmod(index, columns)
    across, down = (right - left) / columns, (bottom - top) / rows
    xs = (left + across * column, left + across * (column + 1))
    ys = (top + down * row, top + down * (row + 1))
    return round(xs[0] * width), round(xs[1] * width), round(ys[0] * height), round(ys[1] * height)
