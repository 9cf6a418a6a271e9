"""The runs folder: what stands in it, and the only way from a name in an address to a file.

A name is looked up among the entries of the folder, never joined to a path; a link that leads
out of the folder is listed with its error and not followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from headscope.app.dashboard import jobs
from headscope.app.dashboard.jobs import Fit, Scan
from headscope.probes import BadFile, HeadscopeError, unknown

if TYPE_CHECKING:
    from headscope.heads import GateManifest, Manifest, MapMeta

Status = Literal["done", "running", "unfinished", "failed", "damaged"]


@dataclass(frozen=True)
class Run:
    """One entry of the runs folder.

    Attributes:
        name: the name of its folder or file.
        path: where it is.
        status: `unfinished` scans can go on; `damaged` ones say why in `note`.
        model, preset, context, shape: what was scanned; empty where that is not known.
        date: when it was finished, or begun. ISO 8601
        done, total: prompts observed and planned; 0 where there is no scan.
        note: the error, or what the scan said last.
        fitting: the method that is being fitted to its model.
    """

    name: str
    path: Path
    status: Status
    model: str = ""
    preset: str = ""
    context: int = 0
    shape: str = ""
    date: str = ""
    done: int = 0
    total: int = 0
    note: str = ""
    fitting: str = ""

    @property
    def busy(self) -> bool:
        """Whether something works on it."""
        return self.status == "running" or bool(self.fitting)

    @property
    def readable(self) -> bool:
        """Whether its head map can be shown."""
        return self.status == "done"

    @property
    def folder(self) -> Path | None:
        """The run folder; None for a head map that stands alone."""
        return self.path if self.path.is_dir() else None


def shelf(root: Path) -> list[Run]:
    """Everything in the runs folder, the newest first."""
    found = [_looked_at(root, path) for path in _entries(root)]
    return sorted(found, key=lambda run: (run.date, run.name), reverse=True)


def maps(root: Path) -> list[str]:
    """Names of all entries that hold a head map, the newest first; the maps are not looked into."""
    found = []
    for path in _entries(root):
        file = path / "headmap.parquet" if path.is_dir() else path
        if file.is_file() and not _stray(root, path):
            found.append((-file.stat().st_mtime, path.name))
    return [name for _, name in sorted(found)]


def find(root: Path, name: str) -> Run:
    """The run of this name.

    Raises:
        UnknownName: the folder has no entry of this name.
    """
    entries = {path.name: path for path in _entries(root)}
    if name not in entries:
        raise unknown("run", name, entries)
    return _looked_at(root, entries[name])


def _entries(root: Path) -> Iterator[Path]:
    try:
        names = sorted(path.name for path in root.iterdir())
    except OSError as error:
        raise HeadscopeError(f"The runs folder {str(root)!r} cannot be read: {error.strerror}.") from error
    for path in (root / name for name in names if not name.startswith(".")):
        own = ("manifest.json", "headmap.parquet", jobs.Scan.FILE)
        is_map = path.suffix == ".parquet" and not path.is_dir()
        if is_map or path.is_symlink() or any(os.path.lexists(path / name) for name in own):
            yield path


def _looked_at(root: Path, path: Path) -> Run:
    stray = _stray(root, path)
    if stray:
        return Run(path.name, path, "damaged", note=f"{stray} is a link that leads out of the runs folder.")
    try:
        return _scan(path) if path.is_dir() else _map(path)
    except BadFile as error:
        return Run(path.name, path, "damaged", note=str(error))


def _stray(root: Path, path: Path) -> str:
    """The first link in a run that leads out of the runs folder, by its name in there."""
    home = root.resolve()
    if path.is_symlink() and not path.resolve().is_relative_to(home):
        return path.name
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            link = Path(folder, name)
            if link.is_symlink() and not link.resolve().is_relative_to(home):
                return str(link.relative_to(path))
        if "parts" in folders:
            folders.remove("parts")  # counted, never opened
    return ""


def _map(path: Path) -> Run:
    return _described(Run(path.name, path, "done"), _meta(path))


def _meta(path: Path) -> MapMeta:
    from headscope.heads import MapMeta, read_meta

    return read_meta(path, MapMeta)


def _scan(path: Path) -> Run:
    from headscope.heads import Manifest, RunFolder, read_manifest

    files = RunFolder(path)
    manifest = read_manifest(files.manifest) if files.manifest.exists() else None
    if manifest is None and not files.headmap.exists():
        return _waiting(path)
    if manifest is None or manifest.status == "done":
        run = Run(path.name, path, "done", date=manifest.finished if manifest else "")
        return _described(run, _meta(files.headmap))
    return _going(path, manifest) if isinstance(manifest, Manifest) else _training(path, manifest)


def _described(run: Run, meta: MapMeta) -> Run:
    g = meta.geometry
    return Run(
        run.name, run.path, run.status, meta.model, meta.preset, meta.context,
        f"{g.layers} × {g.heads}", run.date or _date(run.path),
        fitting=jobs.read(run.path, Fit).method if jobs.alive(run.path, Fit) else "",
    )  # fmt: skip


def _date(path: Path) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _waiting(path: Path) -> Run:
    """A scan that has not written its manifest: it is loading the model, or it never got so far."""
    job = jobs.read(path, Scan)
    alive = jobs.alive(path, Scan)
    return Run(
        path.name, path, "running" if alive else "failed", job.model, job.preset, job.context,
        date=job.started, note="loading the model" if alive else jobs.last_words(path, Scan),
    )  # fmt: skip


def _training(path: Path, manifest: GateManifest) -> Run:
    """Gates that the command line trains, or that it can go on with."""
    plan = manifest.plan
    return Run(
        path.name, path, "unfinished", plan.model, context=max(plan.lengths), date=manifest.started,
        shape=f"{plan.geometry.layers} × {plan.geometry.heads}",
        note="`headscope gates` trains gates here, or goes on with them.",
    )  # fmt: skip


def _going(path: Path, manifest: Manifest) -> Run:
    plan, alive = manifest.plan, jobs.alive(path, Scan)
    parts = path / "parts"
    there = {part.name for part in parts.iterdir()} if parts.is_dir() else set()
    done = sum(f"{key}.safetensors" in there for key in plan.parts)
    words = jobs.last_words(path, Scan)
    failed = bool(words) and not alive and not words.startswith("Scan:")
    return Run(
        path.name, path, "running" if alive else "failed" if failed else "unfinished", plan.model,
        plan.preset, plan.context, f"{plan.geometry.layers} × {plan.geometry.heads}", manifest.started,
        done, len(plan.parts), words,
    )  # fmt: skip
