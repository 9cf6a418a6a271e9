"""Induction, echo and copying on repeated random tokens."""

from __future__ import annotations

from collections.abc import Sequence

from headscope.heads.detect import DETECTORS, Reading
from headscope.heads.headmap import ColumnInfo
from headscope.heads.rules import Condition, Rule
from headscope.probes import Geometry, Observation
from headscope.sinks import on_kind

_COLUMNS = {
    "induction": (
        "offset_induction",
        ColumnInfo(
            about="prefix matching: mass on the tokens that followed earlier occurrences of the current one",
            source="Olsson et al. 2022 (arXiv 2209.11895); RazorAttention (arXiv 2407.15891)",
        ),
    ),
    "echo": (
        "offset_echo",
        ColumnInfo(
            about="mass on earlier occurrences of the current token",
            source="RazorAttention (arXiv 2407.15891)",
        ),
    ),
    "copying": (
        "copying",
        ColumnInfo(
            about="share of the text's other tokens that its output raises less than the token it looks at",
            source="after Elhage et al. 2021 and Olsson et al. 2022: the copying half of an induction head",
        ),
    ),
    "previous_token": (
        "offset_previous",
        ColumnInfo(
            about="mass on the token just before",
            source="Elhage et al. 2021; the first half of an induction circuit",
        ),
    ),
}


@DETECTORS.register
class Induction:
    """Means over the sampled rows from the second repeat on; 0 ... 1 (copying: all rows, 0.5 by chance).

    RazorAttention ranks all heads and keeps the first 14% by induction and 1% by echo; the
    labels here ask for a mass that chance cannot give: with period P a uniform row puts less
    than 3 / P on these keys.
    """

    name = "induction"
    summary = "heads that look at, or just after, earlier occurrences of the current token"
    rules = (
        Rule(
            role="induction", score="induction",
            all_of=(Condition(column="induction", op=">=", threshold=0.3),),
            source="prefix matching, Olsson et al. 2022; the threshold is ours",
        ),
        Rule(
            role="echo", score="echo",
            all_of=(Condition(column="echo", op=">=", threshold=0.1),),
            source="RazorAttention; the threshold is ours",
        ),
        Rule(
            role="previous_token", score="previous_token",
            all_of=(Condition(column="previous_token", op=">=", threshold=0.4),),
            source="Elhage et al. 2021; the threshold is ours",
        ),
    )  # fmt: skip

    def read(self, seen: Sequence[Observation], geometry: Geometry) -> Reading:
        repeated = [o for o in seen if o.prompt.task == "repeat"]
        if not repeated:
            return Reading({}, {})
        scores = {name: on_kind(repeated, source) for name, (source, _) in _COLUMNS.items()}
        about = {
            name: info.model_copy(update={"tasks": ("repeat",), "prompts": len(repeated)})
            for name, (_, info) in _COLUMNS.items()
        }
        return Reading(scores, about)
