"""Reading a dashboard page in a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamlit.testing.v1 import AppTest


def text(at: AppTest) -> str:
    """Every string that a page sends to the browser."""
    return "\n".join(string for element in _elements(at.main) for string in _strings(element.proto))


def _elements(block: Any) -> Iterator[Any]:
    for child in block.children.values():
        if getattr(child, "children", None):
            yield from _elements(child)
        elif getattr(child, "proto", None) is not None:
            yield child


def _strings(message: Any) -> Iterator[str]:
    for _, value in message.ListFields():
        for one in value if not isinstance(value, str | bytes) and hasattr(value, "__iter__") else [value]:
            if isinstance(one, str):
                yield one
            elif hasattr(one, "ListFields"):
                yield from _strings(one)
