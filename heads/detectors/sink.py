"""Sink heads: rows that rest on the first token, or on one hidden in the middle."""

from __future__ import annotations

from collections.abc import Sequence

from headscope.heads.detect import DETECTORS, Reading
from headscope.heads.headmap import ColumnInfo
from headscope.heads.rules import Condition, Rule
from headscope.probes import Geometry, Observation
from headscope.sinks import first_token_mass, hidden_sinks, sink_rate

_COLUMNS = {
    "sink": ("mean mass on the first token", "Xiao et al. 2023 (arXiv 2309.17453)"),
    "sink_rate": (
        "share of texts whose first 64 rows put more than 0.3 on the first token",
        "Sink_1^0.3, Gu et al. 2024 (arXiv 2410.10781)",
    ),
    "hidden_sink": (
        "mean mass on the heaviest key past the first four",
        "ACT, Yu et al. 2024 (arXiv 2406.15765)",
    ),
}


@DETECTORS.register
class Sink:
    """Over natural prose; all three 0 ... 1. Expect sinks in most upper-layer heads."""

    name = "sink"
    summary = "heads whose rows rest on a token that carries no content"
    rules = (
        Rule(
            role="sink", score="sink",
            all_of=(Condition(column="sink", op=">=", threshold=0.3),),
            source="epsilon = 0.3 of Gu et al. 2024 (arXiv 2410.10781)",
        ),
        Rule(
            role="hidden_sink", score="hidden_sink",
            all_of=(Condition(column="hidden_sink", op=">=", threshold=0.1),),
            source="threshold of ACT's published code (Yu et al. 2024, arXiv 2406.15765)",
        ),
    )  # fmt: skip

    def read(self, seen: Sequence[Observation], geometry: Geometry) -> Reading:
        prose = [o for o in seen if o.prompt.task == "prose"]
        if not prose:
            return Reading({}, {})
        hidden = hidden_sinks(prose)
        scores = {
            "sink": first_token_mass(prose),
            "sink_rate": sink_rate(prose),
            "hidden_sink": hidden.mass,
        }
        about = {
            name: ColumnInfo(about=text, tasks=("prose",), prompts=len(prose), source=source)
            for name, (text, source) in _COLUMNS.items()
        }
        notes = {"hidden_sink_token": hidden.token, "hidden_sink_position": hidden.position}
        return Reading(scores, about, notes)
