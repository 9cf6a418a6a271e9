"""What a model says of pictures whose truth is known, as rows of text: one for each way of writing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CAPTION_HEADERS = ("", "hallucination", "95%", "change", "95%", "captions", "recall", "words")
QUESTION_HEADERS = ("", "kind", "right", "95%", "precision", "recall", "F1", "yes")
_GRADES = ("precision", "recall", "f1", "yes_rate")


def about(pictures: int, seeds: int) -> str:
    """How to read the tables."""
    return (
        "hallucination: share of the kinds named that are absent or in another colour; captions: share with "
        "any; change: relative to the first row, paired; 95% bootstrap intervals over "
        f"{pictures} pictures of {seeds} seeds."
    )


def caption_cells(row: Mapping[Any, Any], first: bool) -> tuple[str, ...]:
    """One way of writing captions, in the order of `CAPTION_HEADERS`."""
    return (
        str(row["arm"]), f"{row['hallucination']:.1%}", _range(row, "hallucination", ".0f"),
        "" if first else f"{row['hallucination_change']:+.1%}",
        "" if first else _range(row, "hallucination_change", "+.0f"), f"{row['captions']:.1%}",
        f"{row['recall']:.1%}", f"{row['words']:.1f}",
    )  # fmt: skip


def question_cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """Questions of one kind, answered in one way, in the order of `QUESTION_HEADERS`."""
    graded = row["f1"] == row["f1"]  # NaN where the answer is not yes or no
    more = [f"{row[name]:.0%}" if graded else "" for name in _GRADES]
    right = f"{row['accuracy']:.1%}", _range(row, "accuracy", ".0f")
    return str(row["arm"]), str(row["kind"]), *right, *more


def _range(row: Mapping[Any, Any], name: str, form: str) -> str:
    low, high = (100 * row[f"{name}_{end}"] for end in ("low", "high"))
    if low != low:  # over several draws on the same questions there is none
        return ""
    return f"{low:{form}} … {high:{form}}%"  # short, for eight columns are to fit a narrow terminal
