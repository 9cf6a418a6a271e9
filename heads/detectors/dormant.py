"""Active-dormant heads (Guo et al. 2024): asleep on one kind of text, awake on another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headscope.heads.detect import DETECTORS, Reading
from headscope.heads.headmap import ColumnInfo
from headscope.heads.rules import Condition, Rule
from headscope.probes import Estimate, Geometry, Observation
from headscope.sinks import kinds, on_kind

_SOURCE = "Guo et al. 2024 (arXiv 2410.13835)"
DORMANT_MASS, DORMANT_ACTIVITY = 0.7, 0.5
AWAKE_ACTIVITY = 0.1


@DETECTORS.register
class ActiveDormant:
    """Mass on the sink and size of the output, per kind of text.

    A head is dormant on a kind when its sampled rows put at least 0.7 on the first token and add
    no more than half of what one ordinary token's value would (`activity`); it is awake on a kind
    where it is not dormant and adds at least a tenth of such a value, so that moving from the first
    token to another drained one is no awakening. `active_dormant` is the range of its mean sink
    mass over the kinds, 0 ... 1; the label asks for a kind on which the head is dormant and one on
    which it is awake, and a range that is not noise.
    """

    name = "active_dormant"
    summary = "heads that rest on the sink for some kinds of text and work on others"
    rules = (
        Rule(
            role="active_dormant", score="active_dormant",
            all_of=(
                Condition(column="active_dormant", op=">=", threshold=0.2),
                Condition(column="dormant_kinds", op=">=", threshold=1),
                Condition(column="awake_kinds", op=">=", threshold=1),
            ),
            source=f"{_SOURCE}; the thresholds are ours",
        ),
    )  # fmt: skip

    def read(self, seen: Sequence[Observation], geometry: Geometry) -> Reading:
        groups = kinds(seen)
        if len(groups) < 2:
            return Reading({}, {})
        mass = {kind: on_kind(group, "first_1") for kind, group in groups.items()}
        activity = {kind: on_kind(group, "activity") for kind, group in groups.items()}
        dormant = np.stack([
            (mass[k].value >= DORMANT_MASS) & (activity[k].value <= DORMANT_ACTIVITY) for k in groups
        ])  # fmt: skip
        awake = ~dormant & np.stack([activity[k].value >= AWAKE_ACTIVITY for k in groups])
        scores, about = {"active_dormant": _range(list(mass.values()))}, {}
        about["active_dormant"] = ColumnInfo(
            about="largest difference of mean sink mass between kinds of text",
            tasks=tuple(groups), prompts=sum(map(len, groups.values())), source=_SOURCE,
        )  # fmt: skip
        for kind, group in groups.items():
            scores |= {f"sink_mass_{kind}": mass[kind], f"activity_{kind}": activity[kind]}
            for name, text, high in (
                (f"sink_mass_{kind}", f"mean mass on the first token, on {kind} text", 1.0),
                (f"activity_{kind}", f"size of what the head adds, in ordinary values, on {kind} text", None),
            ):  # fmt: skip
                about[name] = ColumnInfo(
                    about=text, high=high, tasks=(kind,), prompts=len(group), source=_SOURCE
                )
        names = np.array(list(groups))
        notes = {
            "dormant_kinds": dormant.sum(0),
            "awake_kinds": awake.sum(0),
            "wakes_on": _wakes(dormant, awake, names),
        }
        return Reading(scores, about, notes)


def _range(masses: Sequence[Estimate]) -> Estimate:
    """Largest minus smallest mean, and the error of that difference. [L, H]"""
    value, se = np.stack([m.value for m in masses]), np.stack([m.se for m in masses])
    high, low = value.argmax(0)[None], value.argmin(0)[None]
    spread = (np.take_along_axis(se, i, 0)[0] ** 2 for i in (high, low))
    return Estimate(value.max(0) - value.min(0), np.sqrt(sum(spread)))


def _wakes(dormant: np.ndarray, awake: np.ndarray, names: np.ndarray) -> np.ndarray:
    """The kinds on which a head is awake though it is dormant on others; empty otherwise."""
    sleeps, wakes = dormant.reshape(len(names), -1).T, awake.reshape(len(names), -1).T
    texts = [", ".join(names[w]) if s.any() else "" for s, w in zip(sleeps, wakes, strict=True)]
    return np.array(texts, dtype=object).reshape(dormant.shape[1:])
