"""Tokens in a row, and where a head looks from each: windows of a long text, drawn in the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from headscope.app.tokens import visible

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import ShownPrompt

WINDOW = 512  # tokens drawn at once
_LEAST = 0.005  # mass below which a key is not named
_HERE = Path(__file__).parent

# For each query row that is known, its heaviest keys with their mass.
Rows = Mapping[int, Sequence[tuple[int, float]]]


def strip(
    tokens: Sequence[str], rows: Rows, begin: int, *, key: str, at: int,
    spans: Mapping[str, tuple[int, int]] | None = None, hue: str = "var(--active)",
) -> None:  # fmt: skip
    """Draw the tokens `begin` ... `begin + WINDOW`; `at` is the row shown first."""
    stop = min(len(tokens), begin + WINDOW)
    known = {i: heaviest(rows[i]) for i in range(begin, stop) if i in rows}
    elsewhere = {k for keys in known.values() for k, _ in keys if not begin <= k < stop}
    data = {
        "tokens": [visible(t) for t in tokens[begin:stop]],
        "offset": begin,
        "rows": {str(i): keys for i, keys in known.items()},
        "outside": {str(k): visible(tokens[k]) for k in elsewhere},
        "spans": {n: list(s) for n, s in (spans or {}).items() if s[1] - s[0] <= len(tokens) / 4},
        "at": at if at in known else max(known, default=begin),
    }
    _component()(data=data | {"hue": hue, "partial": len(known) < stop - begin}, key=key)


def heaviest(keys: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The keys worth naming, the heaviest first."""
    named = [(int(k), round(float(m), 4)) for k, m in keys if m >= _LEAST]
    return sorted(named, key=lambda pair: -pair[1]) or [(int(k), round(float(m), 4)) for k, m in keys[:1]]


def window(tokens: int, at: int) -> int:
    """Where a window that shows the token `at` near its end begins."""
    return max(0, min(at - WINDOW * 3 // 4, tokens - WINDOW))


def rows_of(prompt: ShownPrompt, mine: pd.DataFrame) -> dict[int, list[tuple[int, float]]]:
    """One head's evidence of one prompt, row by row."""
    part = mine[mine["prompt"] == prompt.index].sort_values(["row", "rank"])
    found: dict[int, list[tuple[int, float]]] = {}
    for row, key, mass in zip(part["row"].tolist(), part["key"].tolist(), part["mass"].tolist(), strict=True):
        found.setdefault(int(row), []).append((int(key), float(mass)))
    return found


def _component() -> Any:
    return st.components.v2.component(
        "headscope.strip",
        html='<p class="says" aria-live="polite"></p><div class="tokens" tabindex="0"></div>',
        css=(_HERE / "strip.css").read_text(encoding="utf-8"),
        js=(_HERE / "strip.js").read_text(encoding="utf-8"),
    )
