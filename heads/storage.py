"""Tables that explain themselves, written whole or not at all."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from headscope.probes import BadFile, first_fault
from headscope.probes import read_json as read_json
from headscope.probes import write_atomically as write_atomically
from headscope.probes import write_json as write_json

M = TypeVar("M", bound=BaseModel)
_KEY = b"headscope"


def write_table(path: Path, frame: pd.DataFrame, meta: BaseModel | None = None) -> None:
    """Write a table as Parquet, `meta` as JSON in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    if meta is not None:
        found = dict(table.schema.metadata or {}) | {_KEY: meta.model_dump_json().encode()}
        table = table.replace_schema_metadata(found)
    write_atomically(path, lambda p: pq.write_table(table, p, compression="zstd"))


def read_table(
    path: Path, kind: type[M], where: Sequence[tuple[str, str, object]] = ()
) -> tuple[pd.DataFrame, M]:
    """Read a table and its metadata.

    Args:
        path: the file.
        kind: the model of its metadata.
        where: conditions (column, operator, value) that rows must meet; all rows without any.

    Raises:
        BadFile: missing, damaged, or without headscope's metadata.
    """
    import pyarrow.parquet as pq

    with _readable(path):
        table = pq.read_table(path, filters=list(where) or None)
        frame = table.to_pandas(ignore_metadata=True)  # pandas' own may ask for anything
    return frame, _meta(path, table.schema.metadata, kind)


def check_columns(
    path: Path,
    frame: pd.DataFrame,
    *,
    whole: Collection[str] = (),
    numbers: Collection[str] = (),
    flags: Collection[str] = (),
    words: Collection[str] = (),
) -> None:
    """Refuse a table that lacks a column, or has one of another kind.

    Args:
        path: the file, for the sentence.
        frame: the table.
        whole, numbers, flags, words: the columns it must have: whole numbers, any numbers, true or
            false, text.

    Raises:
        BadFile: the first column that is not there or not of its kind.
    """
    types = pd.api.types
    for what, names, fits in (
        ("whole numbers", whole, types.is_integer_dtype),
        ("numbers", numbers, types.is_any_real_numeric_dtype),
        ("true or false", flags, types.is_bool_dtype),
        ("text", words, types.is_string_dtype),
    ):
        for name in names:
            if name not in frame.columns:
                raise BadFile(f"The table {str(path)!r} lacks the column {name!r}.")
            if not fits(frame[name]):
                raise BadFile(f"The column {name!r} of {str(path)!r} does not hold {what}.")


def read_meta(path: Path, kind: type[M]) -> M:
    """Read a table's metadata and nothing else.

    Raises:
        BadFile: missing, damaged, or without headscope's metadata.
    """
    import pyarrow.parquet as pq

    with _readable(path):
        schema = pq.read_schema(path)
    return _meta(path, schema.metadata, kind)


def no_map(where: Path) -> BadFile:
    """The error for a run folder or head map that is not there: what is near, or what is there instead."""
    if not where.is_dir():
        beside = [p.name for p in where.parent.glob("*") if p.is_dir() or p.suffix == ".parquet"]
        near = difflib.get_close_matches(where.name, beside, n=1)
        hint = f" Did you mean {str(where.with_name(near[0]))!r}?" if near else ""
        return BadFile(f"There is no run folder or head map {str(where)!r}.{hint}")
    if (where / "manifest.json").exists():
        return BadFile(f"The run {str(where)!r} has no head map yet: the command that began it can go on.")
    runs = sorted(str(p.parent) for p in where.glob("*/headmap.parquet"))
    hint = f"; runs in it: {', '.join(runs)}" if runs else ""
    return BadFile(f"The folder {str(where)!r} is no run: it has no headmap.parquet{hint}.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = "there is no such file" if not path.exists() else first_fault(error).rstrip(".")
        raise BadFile(f"The table {str(path)!r} cannot be read: {reason}.") from error


def _meta(path: Path, metadata: Mapping[bytes, bytes] | None, kind: type[M]) -> M:
    raw = (metadata or {}).get(_KEY)
    if raw is None:
        raise BadFile(f"{str(path)!r} is Parquet, but was not written by headscope.")
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise BadFile(
            f"The metadata of {str(path)!r} is not a valid {kind.__name__}: {first_fault(error)}"
        ) from error
