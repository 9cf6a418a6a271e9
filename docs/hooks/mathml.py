"""Formulas as MathML, which browsers draw themselves: no script, no font, no network."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?P<open>\\\(|\\\[)(?P<tex>.*?)(?:\\\)|\\\])</(?P=tag)>', re.S
)


def on_page_content(text: str, **_: Any) -> str:
    """Replace what `pymdownx.arithmatex` marked."""
    return _FORMULA.sub(_mathml, text)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found["open"] == r"\[" else "inline"
    formula = convert(html.unescape(found["tex"]).strip(), display=display)
    return f'<div class="formula">{formula}</div>' if display == "block" else formula
