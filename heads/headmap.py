"""The HeadMap: what a scan found out about every query head, as one Parquet file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from headscope.heads.rules import Rule
from headscope.heads.storage import check_columns, no_map, read_table, write_table
from headscope.probes import BadFile, Geometry, Refused, unknown

if TYPE_CHECKING:
    from headscope.probes import Model

SCHEMA = 1
Setting = str | int | float | bool | None
_KEYS = ["layer", "head", "kv_head"]


class ColumnInfo(BaseModel):
    """What a score column means.

    Attributes:
        about: one sentence.
        low, high: the range it lies in; None where it is unbounded.
        tasks: the tasks it was read from.
        prompts: how many prompts went into it.
        source: paper and equation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    low: float | None = 0.0
    high: float | None = 1.0
    tasks: tuple[str, ...] = ()
    prompts: int = 0
    source: str = ""


class MapMeta(BaseModel):
    """How a map was obtained; stored in the file's metadata under `headscope`.

    Attributes:
        schema_version: layout of the file.
        model: what the model was called.
        fingerprint: hash of its weights; empty for maps imported from elsewhere.
        geometry: its shape.
        preset: preset of the scan, or the format it was imported from.
        seed: seed of prompts and row samples.
        context: longest prompt, in tokens.
        tasks: number of prompts per task.
        accuracy: share of prompts answered right, per task with answers.
        rules: the rule behind every label.
        columns: what every score column means.
        versions: versions of the libraries that made it.
        settings: what an imported file says about all heads at once (`sink_size`, ...).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    model: str
    fingerprint: str = ""
    geometry: Geometry
    preset: str = ""
    seed: int = 0
    context: int = 0
    tasks: dict[str, int] = {}
    accuracy: dict[str, float] = {}
    rules: tuple[Rule, ...] = ()
    columns: dict[str, ColumnInfo] = {}
    versions: dict[str, str] = {}
    settings: dict[str, Setting] = {}


@dataclass(eq=False)
class HeadMap:
    """Scores, standard errors and labels of every query head.

    Attributes:
        frame: one row per head: `layer`, `head`, `kv_head`, score columns, their `_se` columns,
            `is_<role>` label columns.
        meta: how it was obtained.
        path: the file or run folder it came from, if any.
    """

    frame: pd.DataFrame
    meta: MapMeta
    path: Path | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> HeadMap:
        """Read a map from a run folder or a `.parquet` file.

        Raises:
            BadFile: missing, damaged, Parquet of another kind, or at odds with its own metadata.
        """
        where = Path(path)
        file = where / "headmap.parquet" if where.is_dir() else where
        if not file.exists():
            raise no_map(where)
        frame, meta = read_table(file, MapMeta)
        scores = {*meta.columns, *(rule.score for rule in meta.rules)}
        errors = {f"{name}_se" for name in meta.columns} & set(frame.columns)
        labels = [rule.column for rule in meta.rules]
        check_columns(file, frame, whole=_KEYS, numbers=sorted(scores | errors), flags=labels)
        if not _one_row_each(frame, meta.geometry):
            raise BadFile(f"The head map {str(file)!r} does not have one row per head of its model.")
        return cls(frame, meta, where)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map to a `.parquet` file, whole or not at all."""
        write_table(Path(path), self.frame, self.meta)

    def check(self, model: Model) -> None:
        """Refuse any model but the one this is a map of.

        Raises:
            Refused: other weights, or an imported map, which does not know its own.
        """
        if self.meta.fingerprint != model.fingerprint:
            which = f"The head map in {str(self.path)!r}" if self.path else "This head map"
            raise Refused(
                f"{which} is of {self.meta.model!r} with weights {self.meta.fingerprint or 'unknown'}, "
                f"and {model.name!r} has other weights ({model.fingerprint})."
            )

    def to_frame(self) -> pd.DataFrame:
        """A copy of the table."""
        return self.frame.copy()

    @property
    def roles(self) -> list[str]:
        """The roles this map can label, in the order of its rules."""
        return [rule.role for rule in self.meta.rules]

    def rule(self, role: str) -> Rule:
        """The rule behind a role's label."""
        for rule in self.meta.rules:
            if rule.role == role:
                return rule
        raise unknown("role", role, self.roles)

    def top(self, role: str, k: int = 10) -> pd.DataFrame:
        """The `k` heads that play `role` most, best first.

        Args:
            role: a role, or any score column.
            k: how many.

        Returns:
            `layer`, `head`, the score, its `_se`, and the label where the role has one.
        """
        if role in self.roles:
            rule = self.rule(role)
            score, labels = rule.score, [rule.column]
        elif role in self.meta.columns:
            score, labels = role, []
        else:
            raise unknown("role or score", role, {*self.roles, *self.meta.columns})
        columns = ["layer", "head", score, f"{score}_se", *labels]
        ordered = self.frame.dropna(subset=[score]).sort_values(
            [score, "layer", "head"], ascending=[False, True, True], kind="stable"
        )
        return ordered[[c for c in columns if c in self.frame]].head(k).reset_index(drop=True)

    def labels(self) -> pd.DataFrame:
        """`layer`, `head` and one boolean column per role, named by the role."""
        columns = {rule.column: rule.role for rule in self.meta.rules}
        return self.frame[["layer", "head", *columns]].rename(columns=columns)

    def relabel(self, rules: Iterable[Rule]) -> HeadMap:
        """The same scores judged by other rules."""
        rules = tuple(rules)
        frame = self.frame.drop(columns=[rule.column for rule in self.meta.rules])
        for rule in rules:
            missing = [c.column for c in rule.all_of if c.column not in frame]
            if missing:
                raise unknown("score column", missing[0], self.meta.columns)
            frame[rule.column] = rule.apply(frame)
        return HeadMap(frame, self.meta.model_copy(update={"rules": rules}), self.path)

    def with_score(
        self, name: str, value: NDArray[np.float64], se: NDArray[np.float64], info: ColumnInfo
    ) -> HeadMap:
        """The map with a further score, or with a score measured anew.

        Args:
            name: of its column.
            value, se: the score of every head and its standard error. [L, H] each
            info: what it means.
        """
        at = self.frame["layer"].to_numpy(), self.frame["head"].to_numpy()
        frame = self.frame.assign(**{name: value[at], f"{name}_se": se[at]})
        columns = self.meta.columns | {name: info}
        return HeadMap(frame, self.meta.model_copy(update={"columns": columns}), self.path)

    def grid(self, column: str) -> pd.DataFrame:
        """One column as a layer x head table."""
        if column not in self.frame:
            raise unknown("column", column, self.frame.columns)
        return self.frame.pivot(index="layer", columns="head", values=column)

    def compare(self, other: HeadMap) -> Any:
        """Score by score and label by label against another map of the same geometry.

        Returns:
            `Comparison`.

        Raises:
            HeadscopeError: the two models differ in layers or heads.
        """
        from headscope.heads.comparison import compare

        return compare(self, other)

    def policy(self, **limits: Any) -> Any:
        """Which KV groups keep everything in a serving cache, and which only sink + recent.

        Give exactly one of `ratio`, `kv_budget` and `max_error`.

        Args:
            ratio: share of KV groups that keep everything. 0 ... 1
            kv_budget: share of the KV bytes that may stay at `context` tokens. 0 ... 1
            max_error: highest score of a group that streams.
            by: a ranking (`headscope.heads.RANKINGS`), `random`, or a score column; without, `loss`
                where `attribute` measured it, else `error`.
            sink, recent: keys a streaming group keeps; without, the window that `attribute` measured,
                else 64 and 256.
            context: length at which bytes are counted; the scan's longest prompt without.
            seed: seed of `random`.
            compute: `group`, heads read what their group keeps; `head`, heads of a full group
                that lose no more than the streaming groups do read only sink + recent too.

        Returns:
            `Policy`. Ties fall by layer and head; layers with a sliding window of their own are left
            as they are.

        Raises:
            HeadscopeError: limits missing, doubled or out of range.
            UnknownName: no such ranking or column.
        """
        from headscope.heads.choose import choose

        return choose(self, **limits)

    def _repr_html_(self) -> str:
        import importlib

        # The figures live in the app room; a notebook is one of its doors.
        html: str = importlib.import_module("headscope.app.notebook").headmap_html(self)
        return html

    def __repr__(self) -> str:
        g = self.meta.geometry
        counts = ", ".join(f"{int(self.frame[r.column].sum())} {r.role}" for r in self.meta.rules)
        content = counts or ", ".join(self.meta.columns)
        return f"HeadMap({self.meta.model}, {g.layers} x {g.heads} heads: {content})"


def _one_row_each(frame: pd.DataFrame, g: Geometry) -> bool:
    """Whether the rows are the heads of a model, in any order, each with the KV head it reads."""
    layer, head, kv = (frame[key] for key in _KEYS)
    return (
        len(frame) == g.layers * g.heads
        and bool(layer.between(0, g.layers - 1).all() and head.between(0, g.heads - 1).all())
        and not frame.duplicated(["layer", "head"]).any()
        and bool((kv == head // g.group_size).all())
    )


def read_layers(path: Path) -> pd.DataFrame:
    """The measures of every layer that a scan leaves in `layers.parquet`.

    Raises:
        BadFile: missing, damaged, or no table of layers.
    """
    table, _ = read_table(path, MapMeta)
    check_columns(path, table, whole=["layer"])
    return table
