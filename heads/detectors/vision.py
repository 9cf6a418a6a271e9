"""Vision-aware heads: how much of a row lies on a picture, on what of it, and what it changes."""

from __future__ import annotations

from collections.abc import Sequence

from headscope.heads.detect import DETECTORS, Reading
from headscope.heads.divergence import SOURCE, awareness
from headscope.heads.headmap import ColumnInfo
from headscope.heads.rules import Condition, Rule
from headscope.probes import Geometry, Observation, over_prompts
from headscope.sinks import looking

_VAR = "Kang et al. 2025 (arXiv 2503.03321)"
_REMOVED = "the picture removed, so that positions move up"


@DETECTORS.register
class VisionAware:
    """Over prompts that show a picture, in the rows that write the answer; absent without such prompts.

    `vhd` grows with the size of a head's outputs, so heads are compared within their layer:
    `vision_aware` is over the layer's mean.
    """

    name = "vision_aware"
    summary = "heads that look at the picture, and heads that it moves"
    rules = (
        Rule(
            role="image_centric", score="image_mass",
            all_of=(
                Condition(column="image_mass", op=">=", threshold=0.2),
                Condition(column="nonsink_ratio", op=">=", threshold=0.8),
            ),
            source=_VAR,
        ),
        Rule(
            role="vision_aware", score="vision_aware",
            all_of=(
                Condition(column="vision_aware", op=">=", threshold=1.5),
                Condition(column="image_mass", op=">=", threshold=0.05),
            ),
            source=f"{SOURCE}, which takes all above the layer's median; the thresholds are ours",
        ),
    )  # fmt: skip

    def read(self, seen: Sequence[Observation], geometry: Geometry) -> Reading:
        shown = [o for o in seen if "look" in o.head]
        if not shown:
            return Reading({}, {})
        found = looking(shown, geometry.hidden)
        dims = ", ".join(map(str, found.dims)) or "none"
        sinks = f"sink dimensions {dims}, read off the text, tau {found.tau:.3g}"
        scores = {
            "image_mass": found.image,
            "visual_sink": found.sink,
            "nonsink_ratio": found.nonsink,
            "vhd": over_prompts([o.head["vhd"] for o in shown]),
            "vision_aware": over_prompts([awareness(o.head["vhd"], o.head["vhd_text"]) for o in shown]),
        }
        texts = {
            "image_mass": ("mass on image tokens", 1.0, _VAR),
            "visual_sink": (f"mass on visual sinks ({sinks})", 1.0, _VAR),
            "nonsink_ratio": ("share of the image mass off visual sinks, where that mass is 0.2", 1.0, _VAR),
            "vhd": (f"change of the head's output by the picture ({_REMOVED})", None, SOURCE),
            "vision_aware": ("vhd over the mean of the layer, 0 for outliers in size", None, SOURCE),
        }
        tasks = tuple(dict.fromkeys(o.prompt.task for o in shown))
        about = {
            name: ColumnInfo(about=text, high=high, tasks=tasks, prompts=len(shown), source=source)
            for name, (text, high, source) in texts.items()
        }
        return Reading(scores, about)
