"""How spread out a head's attention is."""

from __future__ import annotations

from collections.abc import Sequence

from headscope.heads.detect import DETECTORS, Reading
from headscope.heads.headmap import ColumnInfo
from headscope.heads.rules import Rule
from headscope.probes import Geometry, Observation
from headscope.sinks import on_kind


@DETECTORS.register
class Entropy:
    """Shannon entropy of a row over ln(keys it sees), mean over sampled rows of prose.

    0 = one key, 1 = uniform. No label: low entropy may be a sink, a previous token or a copy.
    """

    name = "entropy"
    summary = "how spread out the attention of a head is"
    rules: tuple[Rule, ...] = ()

    def read(self, seen: Sequence[Observation], geometry: Geometry) -> Reading:
        prose = [o for o in seen if o.prompt.task == "prose"]
        if not prose:
            return Reading({}, {})
        info = ColumnInfo(
            about="mean entropy of a row, over the logarithm of the keys it sees",
            tasks=("prose",), prompts=len(prose),
            source="Zhai et al. 2023 (arXiv 2303.06296), normalised by ln n",
        )  # fmt: skip
        return Reading({"entropy": on_kind(prose, "entropy")}, {"entropy": info})
