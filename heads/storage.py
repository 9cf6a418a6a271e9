"""Tables that explain themselves, written whole or not at all."""

from __future__ import annotations

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
        reason = "there is no such file" if not path.exists() else first_fault(error)
        raise BadFile(f"The table {str(path)!r} cannot be read: {reason}.") from error
    raw = (table.schema.metadata or {}).get(_KEY)
    if raw is None:
        raise BadFile(f"{str(path)!r} is Parquet, but was not written by headscope.")
    try:
        return table.to_pandas(), kind.model_validate_json(raw)
    except ValidationError as error:
        raise BadFile(
            f"The metadata of {str(path)!r} is not a valid {kind.__name__}: {first_fault(error)}"
        ) from error
