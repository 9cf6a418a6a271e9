"""Streaming heads (DuoAttention, Xiao et al. 2024): heads that lose nothing when cut to sink + window."""

from __future__ import annotations

from collections.abc import Sequence

from headscope.heads.detect import DETECTORS, Reading
from headscope.heads.headmap import ColumnInfo
from headscope.heads.rules import Condition, Rule
from headscope.probes import Estimate, Geometry, Observation, over_prompts
from headscope.sinks import on_kind

SINK, RECENT = 64, 256
_ROWS = 64  # so many rows must see more than sink + window for their mean to count
_PAIR = f"{SINK}_{RECENT}"
_SOURCE = "roles: DuoAttention (arXiv 2410.10819); error: exact, o_full - o_cut through W_O"

_COLUMNS: dict[str, tuple[str, float | None, str]] = {
    "streaming": (f"kept_{_PAIR}", 1.0, f"mass on the first {SINK} and last {RECENT} keys"),
    "cut_error": (
        f"cut_error_{_PAIR}",
        None,
        "relative change of the layer's attention output when the head sees only those keys",
    ),
    "group_cut_error": (
        f"group_cut_error_{_PAIR}",
        None,
        "the same when all heads of its KV group see only those keys",
    ),
}


@DETECTORS.register
class Streaming:
    """Where a row's attention lies, and what would be lost without the rest.

    Over rows that see more than 64 + 256 keys. `cut_error` is the norm of the change of what the
    head adds to the residual stream, over the norm of the layer's whole attention output in
    that row: 0 = nothing is lost. On the rows that write an answer it is read apart, since a
    head may need the far past only then; the label asks for both to be small.
    """

    name = "streaming"
    summary = "heads for which the first 64 and the last 256 keys are enough"
    rules = (
        Rule(
            role="streaming", score="streaming",
            all_of=(
                Condition(column="cut_error", op="<=", threshold=0.1),
                Condition(column="cut_error_answer", op="<=", threshold=0.1),
            ),
            source="DuoAttention's role; the thresholds are ours",
        ),
    )  # fmt: skip

    def read(self, seen: Sequence[Observation], geometry: Geometry) -> Reading:
        long = [o for o in seen if len(o.prompt) >= SINK + RECENT + _ROWS and _natural(o)]
        answers = [o for o in seen if o.prompt.task == "needle" and o.right and len(o.prompt) > SINK + RECENT]
        scores: dict[str, Estimate] = {}
        about: dict[str, ColumnInfo] = {}
        for name, (statistic, high, text) in _COLUMNS.items():
            if long:
                scores[name] = on_kind(long, statistic)
                about[name] = _info(text, high, long)
            if answers:
                scores[f"{name}_answer"] = over_prompts([o.exact[statistic].mean(-1) for o in answers])
                about[f"{name}_answer"] = _info(f"{text}, on the rows that write an answer", high, answers)
        return Reading(scores, about)


def _info(text: str, high: float | None, chosen: Sequence[Observation]) -> ColumnInfo:
    names = tuple(dict.fromkeys(o.prompt.task for o in chosen))
    return ColumnInfo(about=text, high=high, tasks=names, prompts=len(chosen), source=_SOURCE)


def _natural(o: Observation) -> bool:
    """Prompts made of sentences; key-value lists and random tokens are not what a model streams."""
    return o.prompt.task in ("needle", "passkey", "prose", "code")
