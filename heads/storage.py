"""Files that appear whole or not at all, and tables that explain themselves."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from headscope.probes import BadFile

M = TypeVar("M", bound=BaseModel)
_KEY = b"headscope"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadFile(f"{str(path)!r} cannot be written: {error.strerror or error}.") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place.

    Raises:
        BadFile: the folder cannot be written or the disk is full; `path` is as it was.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        fresh = Path(name)
        try:
            write(fresh)
            with fresh.open("rb") as stream:
                os.fsync(stream.fileno())
            fresh.chmod(0o644)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)


def write_json(path: Path, model: BaseModel) -> None:
    """Write a pydantic model as readable JSON."""
    text = model.model_dump_json(indent=2) + "\n"
    write_atomically(path, lambda p: p.write_text(text))


def read_json(path: Path, kind: type[M]) -> M:
    """Read what `write_json` wrote.

    Raises:
        BadFile: missing, unreadable, or not of this kind.
    """
    try:
        return kind.model_validate_json(path.read_text())
    except OSError as error:
        raise BadFile(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise BadFile(f"{str(path)!r} is not a valid {kind.__name__}: {_first(error)}") from error


def write_table(path: Path, frame: pd.DataFrame, meta: BaseModel | None = None) -> None:
    """Write a table as Parquet, `meta` as JSON in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    if meta is not None:
        found = dict(table.schema.metadata or {}) | {_KEY: meta.model_dump_json().encode()}
        table = table.replace_schema_metadata(found)
    write_atomically(path, lambda p: pq.write_table(table, p, compression="zstd"))


def read_table(path: Path, kind: type[M]) -> tuple[pd.DataFrame, M]:
    """Read a table and its metadata.

    Raises:
        BadFile: missing, damaged, or without headscope's metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = "there is no such file" if not path.exists() else _first(error)
        raise BadFile(f"The table {str(path)!r} cannot be read: {reason}.") from error
    raw = (table.schema.metadata or {}).get(_KEY)
    if raw is None:
        raise BadFile(f"{str(path)!r} is Parquet, but was not written by headscope.")
    try:
        return table.to_pandas(), kind.model_validate_json(raw)
    except ValidationError as error:
        raise BadFile(
            f"The metadata of {str(path)!r} is not a valid {kind.__name__}: {_first(error)}"
        ) from error


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(p) for p in first['loc']) or 'content'}: {first['msg']}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
