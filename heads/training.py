"""A model along its training: one scan per checkpoint, and any score over the steps.

`runs/<name>/checkpoints.json` lists the checkpoints; each has a run folder of its own beside it, so that
a stopped scan goes on where it was, and later checkpoints can join.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict

from headscope.heads.headmap import HeadMap, read_layers
from headscope.heads.presets import Preset
from headscope.heads.run import RunFolder
from headscope.heads.scan import Progress, scan
from headscope.heads.shards import Shards
from headscope.heads.storage import read_json, write_json
from headscope.probes import BadFile, Checkpoint, HeadscopeError, Model, load, unknown

FILE = "checkpoints.json"


class Scanned(BaseModel):
    """One checkpoint of `checkpoints.json`.

    Attributes:
        step: training steps it has seen.
        source: where it was loaded from.
        run: its run folder, beside the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    source: str
    run: str


class TrainingIndex(BaseModel):
    """`checkpoints.json`: the finished scans, in the order of their steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    checkpoints: tuple[Scanned, ...]


@dataclass(frozen=True, eq=False)
class Training:
    """The scans of a model's checkpoints.

    Attributes:
        path: the folder that holds them.
        checkpoints: what was scanned, in the order of the steps.
    """

    path: Path
    checkpoints: tuple[Scanned, ...]

    @classmethod
    def there(cls, path: str | os.PathLike[str]) -> bool:
        """Whether a folder holds such scans."""
        return (Path(path) / FILE).is_file()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Training:
        """Read them.

        Raises:
            BadFile: missing or damaged, or one of its runs is not where it should be.
        """
        where = Path(path)
        index = read_json(where / FILE, TrainingIndex)
        if not index.checkpoints:
            raise BadFile(f"{str(where / FILE)!r} lists no checkpoint.")
        for entry in index.checkpoints:
            plain = Path(entry.run).name == entry.run not in ("", "..")
            if not plain or not (where / entry.run).is_dir():
                raise BadFile(f"{str(where / FILE)!r} names {entry.run!r}, which is no folder beside it.")
        return cls(where, index.checkpoints)

    @cached_property
    def maps(self) -> list[HeadMap]:
        """The head map of every checkpoint."""
        return [HeadMap.open(self.path / entry.run) for entry in self.checkpoints]

    @property
    def last(self) -> HeadMap:
        """That of the last one."""
        return self.maps[-1]

    @property
    def steps(self) -> list[int]:
        """Training steps of the checkpoints, ascending."""
        return [entry.step for entry in self.checkpoints]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The head maps one below the other, with the column `step`."""
        return self._below([m.frame for m in self.maps])

    @cached_property
    def layers(self) -> pd.DataFrame:
        """The layer profiles (`layers.parquet`) one below the other, with the column `step`."""
        tables = [read_layers(RunFolder(m.path).layers) for m in self.maps if m.path]
        return self._below(tables)

    def over(self, column: str) -> pd.DataFrame:
        """A score or label column over training: one row a step, one column (layer, head) a head.

        Raises:
            UnknownName: no checkpoint's map has it.
        """
        if column not in self.frame:
            raise unknown("column", column, self.frame.columns)
        return self.frame.pivot(index="step", columns=["layer", "head"], values=column)

    def counts(self) -> pd.DataFrame:
        """How many heads carry each role's label: one row a step, one column a role."""
        found = {
            step: {rule.role: int(m.frame[rule.column].sum()) for rule in m.meta.rules}
            for step, m in zip(self.steps, self.maps, strict=True)
        }
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("step")

    def _below(self, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
        named = [t.assign(step=step) for step, t in zip(self.steps, tables, strict=True)]
        return pd.concat(named, ignore_index=True)


def scan_checkpoints(
    sources: Sequence[Checkpoint],
    preset: str | Preset,
    out: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: str | None = None,
    loaded: Callable[[Checkpoint, Model], object] = lambda checkpoint, model: None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Training:
    """Scan every checkpoint with the same prompts.

    Args:
        sources: from `probes.checkpoints`.
        preset: see `scan`.
        out: the folder for all scans; finished ones, and parts of unfinished ones, are reused.
        device, dtype: see `load`.
        loaded: called with every checkpoint and its model before its scan.
        progress: see `scan`; called anew for every checkpoint.
        options: `context`, `haystack` and `seed` of `scan`.

    Raises:
        HeadscopeError: the checkpoints are of different shapes, or `out` holds another scan.
    """
    path, shards, done = Path(out), Shards(), dict[int, Scanned]()
    if (path / "manifest.json").exists():
        raise HeadscopeError(
            f"The run folder {str(path)!r} holds the scan of one model; choose another --out."
        )
    if Training.there(path):
        done = {entry.step: entry for entry in Training.open(path).checkpoints}
    shapes: list[tuple[int, int]] = []
    for source in sources:
        model = load(source.source, device=device, dtype=dtype)
        shapes.append((model.geometry.layers, model.geometry.heads))
        if shapes[-1] != shapes[0]:
            raise HeadscopeError(
                f"{source.source!r} has {shapes[-1][0]} x {shapes[-1][1]} heads and {sources[0].source!r} "
                f"{shapes[0][0]} x {shapes[0][1]}; checkpoints of one model agree."
            )
        loaded(source, model)
        entry = Scanned(step=source.step, source=source.source, run=f"step-{source.step}")
        scan(model, preset, path / entry.run, progress=progress, **options)
        done[source.step] = entry
        if shards.first:
            kept = tuple(done[step] for step in sorted(done))
            write_json(path / FILE, TrainingIndex(checkpoints=kept))
        shards.wait()
    return Training.open(path)
