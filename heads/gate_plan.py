"""What a training of gates is: its settings, its plan, and the manifest that keeps them.

The dashboard lists such runs with the others, so nothing here loads torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from headscope.heads.run import Journal, Manifest
from headscope.heads.storage import read_json
from headscope.probes import BadFile, Geometry, HeadscopeError

if TYPE_CHECKING:
    from headscope.probes import Model


class GateSettings(BaseModel):
    """How gates are trained; the defaults are DuoAttention's, its windows those it deploys with.

    Attributes:
        steps: prompts, one each.
        lengths: prompt lengths in tokens; every step draws one. See `length_schedule`.
        sink, recent: what a row of a streaming head sees.
        learning_rate: of AdamW; rises from a tenth over the first fifth of the steps, and falls back
            to it over the last.
        penalty: weight of the gates' mean.
        recompute: whether layers are run twice to save memory; changes nothing else.
        seed: of the lengths and prompts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 2000
    lengths: tuple[int, ...]
    sink: int = 64
    recent: int = 256
    learning_rate: float = 0.02
    penalty: float = 0.05
    recompute: bool = False
    seed: int = 0

    def check(self, model: Model) -> None:
        """Raise HeadscopeError for what is out of range, or cannot be trained on `model`."""
        ranges = {
            "steps": (self.steps >= 1, "at least 1"),
            "sink": (self.sink >= 0, "at least 0"),
            "recent": (self.recent >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate <= 1, "above 0 and at most 1"),
            "penalty": (0 <= self.penalty < float("inf"), "a number from 0"),
        }
        wrong = [
            f"{n} is {getattr(self, n)}, but must be {least}"
            for n, (fine, least) in ranges.items()
            if not fine
        ]
        if wrong:
            raise HeadscopeError(f"{'; '.join(wrong)}.")
        shortest, longest = min(self.lengths, default=0), max(self.lengths, default=0)
        if shortest <= self.sink + self.recent:
            raise HeadscopeError(
                f"Prompts of {shortest} tokens fit into sink + recent = {self.sink} + {self.recent} keys, so "
                "nothing would be cut; train on longer ones."
            )
        if model.geometry.context and longest > model.geometry.context:
            raise HeadscopeError(
                f"length is {longest} tokens, but {model.name!r} was built for at most "
                f"{model.geometry.context}."
            )


class GatePlan(GateSettings):
    """Everything that decides what the gates will be.

    Attributes:
        model, fingerprint, geometry, dtype: whose heads, in which arithmetic.
        task: name of the task that makes the prompts.
        haystack: hash of the text they hide things in; empty for the default.
    """

    model: str
    fingerprint: str
    geometry: Geometry
    dtype: str
    task: str
    haystack: str


class GateManifest(Journal[GatePlan]):
    """`manifest.json` of a training of gates.

    Attributes:
        kind: tells it from a scan's.
        plan: what is being done.
        status: `running` until the head map is written.
        started, finished: UTC times, ISO 8601.
        seconds: time spent in steps.
        device: what it ran on.
        versions: versions of the libraries.
    """

    kind: Literal["gates"] = "gates"


def read_manifest(file: Path) -> Manifest | GateManifest:
    """The manifest of a scan, or that of a training of gates.

    Raises:
        BadFile: it is neither.
    """
    try:
        return read_json(file, GateManifest)
    except BadFile:
        return read_json(file, Manifest)
