"""What a detector is, and how all of them together turn observations into a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headscope.heads.headmap import ColumnInfo
from headscope.heads.rules import Rule
from headscope.probes import Estimate, Geometry, Observation, Registry


@dataclass(frozen=True)
class Reading:
    """What one detector read off the observations.

    Attributes:
        scores: estimates by column name.
        about: what each of those columns means.
        notes: further per-head columns that are no scores (text, positions). [L, H] each. Token ids
            go under a name that ends in `_token`; the table shows them as text.
    """

    scores: Mapping[str, Estimate]
    about: Mapping[str, ColumnInfo]
    notes: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


class Detector(Protocol):
    """A rule that turns observations into scores per head, in its own file under `detectors/`.

    Attributes:
        name: the detector's name.
        summary: one line for `headscope list`.
        rules: the labels it defines on its columns.
    """

    name: str
    summary: str
    rules: tuple[Rule, ...]

    def read(self, seen: Sequence[Observation], geometry: Geometry) -> Reading:
        """Score every head. Columns whose tasks were not run are left out."""
        ...


DETECTORS: Registry[Detector] = Registry("detector", "headscope.heads.detectors")


def detect(
    seen: Sequence[Observation],
    geometry: Geometry,
    decode: Callable[[Sequence[int]], list[str]] | None = None,
) -> tuple[pd.DataFrame, dict[str, ColumnInfo], tuple[Rule, ...]]:
    """Run every detector over the observations; `decode` turns token ids into their texts.

    Returns:
        The table (one row per head), what its score columns mean, and the rules that could be
        applied (those whose columns are all there).
    """
    grid = np.indices((geometry.layers, geometry.heads))
    layer, head = (axis.reshape(-1) for axis in grid)
    columns: dict[str, object] = {
        "layer": layer.astype(np.int32),
        "head": head.astype(np.int32),
        "kv_head": (head // geometry.group_size).astype(np.int32),
    }
    about: dict[str, ColumnInfo] = {}
    rules: list[Rule] = []
    for detector in DETECTORS:
        reading = detector.read(seen, geometry)
        for name, estimate in reading.scores.items():
            columns[name] = estimate.value.reshape(-1)
            columns[f"{name}_se"] = estimate.se.reshape(-1)
        for name, note in reading.notes.items():
            flat = note.reshape(-1)
            columns[name] = decode(flat.tolist()) if decode and name.endswith("_token") else flat
        about |= reading.about
        rules += [r for r in detector.rules if all(c.column in columns for c in r.all_of)]
    frame = pd.DataFrame(columns)
    for rule in rules:
        frame[rule.column] = rule.apply(frame)
    return frame, about, tuple(rules)
