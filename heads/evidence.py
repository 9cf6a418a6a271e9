"""Token-level evidence: for a few prompts of every kind, which token looked where.

`prompts.json` lists the prompts token by token; `rows.parquet` has one row per (prompt, layer,
head, query row, rank): the heaviest keys of the exact rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from headscope.heads.looks import write_looks
from headscope.heads.storage import check_columns, read_json, read_table, write_json, write_table
from headscope.probes import BadFile

if TYPE_CHECKING:
    from headscope.probes import Observation

_PER_KIND = 2
_PLACES = ("prompt", "layer", "head", "row", "rank", "key")


class ShownPrompt(BaseModel):
    """One prompt of the evidence.

    Attributes:
        index: its number in `rows.parquet`.
        task, kind: where it came from.
        tokens: its tokens as text.
        spans: named half-open token ranges.
        answer: the range of the answer, if any.
        right: whether the model answers right.
        rows: the query rows shown.
        meta: length, depth, ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    task: str
    kind: str
    tokens: tuple[str, ...]
    spans: dict[str, tuple[int, int]] = {}
    answer: tuple[int, int] | None = None
    right: bool = False
    rows: tuple[int, ...] = ()
    meta: dict[str, str | int | float | bool | None] = {}


class Shown(BaseModel):
    """`evidence/prompts.json`.

    Attributes:
        prompts: by their number in `rows.parquet`; none in that table's own metadata.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: tuple[ShownPrompt, ...]


def write_evidence(
    folder: Path, seen: Sequence[Observation], decode: Callable[[Sequence[int]], list[str]], width: int
) -> None:
    """Keep the shortest right-answered prompts of every task and the first of every text kind.

    Args:
        folder: where to.
        seen: all observations.
        decode: turns token ids into their texts.
        width: of the residual stream.
    """
    chosen = _choose(seen)
    shown, tables = [], []
    for index, o in enumerate(chosen):
        shown.append(_describe(index, o, decode))
        tables.append(_rows(index, o))
    write_table(folder / "rows.parquet", pd.concat(tables, ignore_index=True), Shown(prompts=()))
    write_json(folder / "prompts.json", Shown(prompts=tuple(shown)))
    write_looks(folder, chosen, width)


def read_evidence(
    folder: Path, head: tuple[int, int] | None = None
) -> tuple[tuple[ShownPrompt, ...], pd.DataFrame]:
    """The prompts, and one row per (prompt, layer, head, row, rank) with `key` and `mass`.

    Args:
        folder: the run's evidence.
        head: read the rows of this (layer, head) alone; of all heads without it.

    Raises:
        BadFile: missing or damaged.
    """
    prompts = read_json(folder / "prompts.json", Shown).prompts
    where = [("layer", "==", head[0]), ("head", "==", head[1])] if head else []
    file = folder / "rows.parquet"
    table = read_table(file, Shown, where)[0]
    check_columns(file, table, whole=_PLACES, numbers=("mass",))
    length = table["prompt"].map({p.index: len(p.tokens) for p in prompts})
    if not (table["row"].between(0, length - 1) & table["key"].between(0, length - 1)).all():
        raise BadFile(f"The table {str(file)!r} speaks of tokens that prompts.json does not have.")
    return prompts, table


def _kind(o: Observation) -> str:
    return str(o.prompt.meta.get("kind", o.prompt.task))


def _choose(seen: Sequence[Observation]) -> list[Observation]:
    """Up to two per kind: right answers first, then the shorter, then the order of the plan."""
    kinds: dict[str, list[Observation]] = {}
    for o in seen:
        kinds.setdefault(_kind(o), []).append(o)
    ranked = (sorted(g, key=lambda o: (not o.right, len(o.prompt))) for g in kinds.values())
    return [o for group in ranked for o in group[:_PER_KIND]]


def _describe(index: int, o: Observation, decode: Callable[[Sequence[int]], list[str]]) -> ShownPrompt:
    return ShownPrompt(
        index=index, task=o.prompt.task, kind=_kind(o), tokens=tuple(decode(o.prompt.ids)),
        spans=dict(o.prompt.spans), answer=o.prompt.answer, right=o.right,
        rows=tuple(int(r) for r in o.rows), meta=dict(o.prompt.meta),
    )  # fmt: skip


def _rows(index: int, o: Observation) -> pd.DataFrame:
    key, mass = o.exact["top_key"], o.exact["top_masses"]
    layer, head, row, rank = (axis.reshape(-1) for axis in np.indices(key.shape))
    frame = pd.DataFrame({
        "prompt": np.full(key.size, index, np.int16), "layer": layer.astype(np.int16),
        "head": head.astype(np.int16), "row": o.rows[row].astype(np.int32),
        "rank": rank.astype(np.int8), "key": key.reshape(-1).astype(np.int32),
        "mass": mass.reshape(-1).astype(np.float32),
    })  # fmt: skip
    return frame[frame["key"] >= 0]
