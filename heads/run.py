"""The run folder: what a scan keeps on disk, and how it is found again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from headscope.heads.storage import read_json, write_json
from headscope.probes import Geometry, HeadscopeError, Recipe
from headscope.probes import versions as versions


class Plan(BaseModel):
    """Everything that decides what a scan's table will be.

    Attributes:
        model, fingerprint, geometry, dtype: whose heads, in which arithmetic.
        preset: name of the preset.
        context: longest prompt, in tokens.
        seed: seed of prompts and row samples.
        recipe: how each prompt is observed.
        haystack: hash of the text things are hidden in; empty for the default.
        parts: the key of every prompt's part, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    fingerprint: str
    geometry: Geometry
    dtype: str
    preset: str
    context: int
    seed: int
    recipe: Recipe
    haystack: str
    parts: tuple[str, ...]


class Manifest(BaseModel):
    """`manifest.json`: the plan, and how far it got.

    Attributes:
        plan: what is being done.
        status: `running` until the table is written.
        started, finished: UTC times, ISO 8601.
        seconds: time spent in prefills, all processes together.
        device: what it ran on.
        versions: versions of the libraries.
    """

    model_config = ConfigDict(extra="forbid")

    plan: Plan
    status: Literal["running", "done"] = "running"
    started: str
    finished: str = ""
    seconds: float = 0.0
    device: str = ""
    versions: dict[str, str] = {}


class RunFolder:
    """Names of the things in `runs/<name>/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "manifest.json"
        self.parts = path / "parts"
        self.headmap = path / "headmap.parquet"
        self.layers = path / "layers.parquet"
        self.evidence = path / "evidence"
        self.report = path / "report.html"

    def part(self, key: str) -> Path:
        return self.parts / f"{key}.safetensors"

    def begin(self, plan: Plan, started: str, device: str) -> Manifest:
        """Start or continue the scan `plan`.

        Raises:
            HeadscopeError: the folder holds another scan; nothing is touched.
        """
        if self.manifest.exists():
            found = read_json(self.manifest, Manifest)
            different = differences(found.plan, plan)
            if different:
                raise HeadscopeError(
                    f"The run folder {str(self.path)!r} holds another scan ({different}); "
                    "choose another --out, or delete it."
                )
            return found
        manifest = Manifest(plan=plan, started=started, device=device, versions=versions())
        write_json(self.manifest, manifest)
        return manifest


def differences(old: BaseModel, new: BaseModel) -> str:
    """What sets two plans of the same kind apart, in words."""
    names = [n for n in type(old).model_fields if getattr(old, n) != getattr(new, n)]
    names = [n for n in names if n != "parts"] or names  # the parts follow from the rest
    shown = [n for n in names if n not in ("geometry", "parts", "recipe")]
    parts = [f"{n} {getattr(old, n)!r}, not {getattr(new, n)!r}" for n in shown]
    return ", ".join(parts) or ", ".join(names)
