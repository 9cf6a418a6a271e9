"""The report: one HTML file that needs nothing but a browser."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from headscope.app import looks
from headscope.app.palette import hue_of
from headscope.app.sections import Page, page
from headscope.probes import write_atomically

if TYPE_CHECKING:
    from headscope.heads import HeadMap, Training

_HERE = Path(__file__).parent


def write_report(run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run folder or head map file.

    Args:
        run: a run folder, the folder of several checkpoints' scans, or a `.parquet` head map (whose
            report has no examples and no layers).
        out: the file to write; `report.html` in the run folder, or beside the map, by default.

    Returns:
        The file written. It appears whole or not at all.

    Raises:
        BadFile: no head map there, a damaged one, or a file that cannot be written.
    """
    from headscope.heads import HeadMap, Training

    source = Path(run)
    training = Training.open(source) if Training.there(source) else None
    headmap = training.last if training else HeadMap.open(source)
    target = (
        Path(out) if out else (source / "report.html" if source.is_dir() else source.with_suffix(".html"))
    )
    text = render(headmap, headmap.path if headmap.path and headmap.path.is_dir() else None, training)
    write_atomically(target, lambda p: p.write_text(text, encoding="utf-8"))
    return target


def render(headmap: HeadMap, folder: Path | None = None, training: Training | None = None) -> str:
    """The report as HTML.

    Args:
        headmap: what to report.
        folder: the run folder, for examples, layers and the manifest; None leaves them out.
        training: the checkpoints that `headmap` is the last of, if any.
    """
    from plotly.offline import get_plotlyjs

    content: Page = page(headmap, folder, training)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            page=content,
            css=Markup(_read("report.css")),
            js=Markup(_read("report.js")),
            plotly=Markup(get_plotlyjs()),
        )
    )


@cache
def environment() -> Environment:
    """The templates, with everything escaped that comes from outside."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "number": looks.number,
        "title_of": looks.title,
        "percent": _percent,
        "exact": repr,
        "hue": hue_of,
    }
    environment.filters.update(filters)
    return environment


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f}%"


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
