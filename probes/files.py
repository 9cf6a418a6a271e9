"""Files that appear whole or not at all, and JSON that is checked as it is read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from headscope.probes.errors import BadFile, HeadscopeError

M = TypeVar("M", bound=BaseModel)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses while `path` is written into one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # a full disk is the one or the other
        reason = getattr(error, "strerror", None) or first_fault(error)
        raise BadFile(f"{str(path)!r} cannot be written: {reason}.") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place.

    Raises:
        BadFile: the folder cannot be written or the disk is full; `path` is as it was.
    """
    with writing(path):
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


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, whatever the locale says."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def home_path(name: str | os.PathLike[str]) -> Path:
    """`name` as a path, a leading `~` or `~user` read as a home folder.

    Raises:
        BadFile: nobody knows that home.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise BadFile(f"{str(name)!r} begins with a home folder that is not known here.") from None


def json_text(model: BaseModel) -> str:
    """A pydantic model as readable JSON."""
    return model.model_dump_json(indent=2) + "\n"


def schema_text(kind: type[BaseModel], title: str) -> str:
    """The JSON Schema (2020-12) of the JSON that `write_json` writes of a pydantic model."""
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return json.dumps(kind.model_json_schema() | about, indent=2) + "\n"


def write_json(path: Path, model: BaseModel) -> None:
    """Write a pydantic model as readable JSON."""
    write_text(path, json_text(model))


def read_json(path: Path, kind: type[M]) -> M:
    """Read what `write_json` wrote.

    Raises:
        BadFile: missing, unreadable, or not of this kind.
    """
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except (HeadscopeError, ValueError) as error:  # a ValidationError is one, and so is a NUL in the path
        raise BadFile(f"{str(path)!r} is not a valid {kind.__name__}: {first_fault(error)}.") from error


def first_fault(error: Exception) -> str:
    """The first thing that is wrong, in one line: where, for a validation error, and what."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(p) for p in first['loc']) or 'content'}: {first['msg']}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])  # some say where first, and then what
