"""Docstrings that explain several names at once (`sink, recent: …`) explain each in the reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SHARED = re.compile(r"^    (\w+(?:, \w+)+): ((?:.*)(?:\n {8}.*)*)", re.M)


class Names(griffe.Extension):
    """Write an entry for every name before the docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every class, function and attribute once it is loaded."""
        if obj.docstring:
            obj.docstring.value = _SHARED.sub(_apart, obj.docstring.value)


def _apart(found: re.Match[str]) -> str:
    return "\n".join(f"    {name}: {found[2]}" for name in found[1].split(", "))
