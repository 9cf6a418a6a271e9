"""The run folder: what a scan keeps on disk, and how it is found again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, Literal, TypeVar

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


P = TypeVar("P", bound=BaseModel)


class Journal(BaseModel, Generic[P]):
    """A plan, and how far it got: what the manifests of a scan and of a training share."""

    model_config = ConfigDict(extra="forbid")

    plan: P
    status: Literal["running", "done"] = "running"
    started: str
    finished: str = ""
    seconds: float = 0.0
    device: str = ""
    versions: dict[str, str] = {}

    def finish(self) -> None:
        """Say that it is done; the first time that it was stays."""
        self.status, self.finished = "done", self.finished or utc_now()


class Manifest(Journal[Plan]):
    """`manifest.json`: the plan, and how far it got.

    Attributes:
        plan: what is being done.
        status: `running` until the table is written.
        started, finished: UTC times, ISO 8601.
        seconds: time spent in prefills, all processes together.
        device: what it ran on.
        versions: versions of the libraries.
    """


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


@contextmanager
def working_folder(out: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The run folder asked for; without one, a temporary folder that goes when the block ends."""
    if out is not None:
        yield Path(out)
        return
    with TemporaryDirectory(prefix="headscope-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def text_hash(text: str | None) -> str:
    """Of any string, one with half surrogates included: 16 hexadecimal digits. Empty for no text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] if text else ""


def utc_now() -> str:
    """ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
