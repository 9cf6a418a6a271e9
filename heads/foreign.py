"""Files that others wrote: limited in size, parsed strictly, refused in one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from headscope.probes import BadFile

LIMIT = 4 << 20  # bytes; a head map of numbers stays far below
WIDEST = 4096  # layers or heads; nothing built so far comes near


def bad(path: Path, reason: str) -> NoReturn:
    """Refuse a file: `reason` continues the sentence that its name begins."""
    raise BadFile(f"{str(path)!r} {reason}.")


def member(folder: Path, name: str) -> Path:
    """A file of a folder, which must not lead out of it.

    Raises:
        BadFile: missing, or a link to somewhere else.
    """
    path = folder / name
    if not path.exists():
        bad(folder, f"has no {name}")
    if not path.resolve().is_relative_to(folder.resolve()):
        bad(path, "is a link that leads out of its folder; give the folder that it leads to")
    return path


def read_text(path: Path, limit: int = LIMIT) -> str:
    """The text of a file, its size looked at before its content.

    Raises:
        BadFile: missing, no plain file, larger than `limit` bytes, or not text.
    """
    if path.exists() and not path.is_file():
        bad(path, "is not a file")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            content = stream.read(limit + 1) if size <= limit else b""
        if max(size, len(content)) > limit:
            bad(path, f"has {size:,} bytes, more than the {limit:,} that such a file may have")
        return content.decode("utf-8")
    except OSError as error:
        bad(path, f"cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        bad(path, "is binary, not text")


def read_foreign_json(path: Path, limit: int = LIMIT) -> Any:
    """The content of a JSON file without NaN, infinities or repeated names.

    Raises:
        BadFile: not such JSON, or nested too deeply.
    """
    text = read_text(path, limit)
    try:
        return json.loads(text, parse_constant=_constant, object_pairs_hook=_unique)
    except RecursionError:
        bad(path, "is nested too deeply")
    except ValueError as error:
        bad(path, f"is not valid JSON: {error}")


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number (which true and false are not)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def number_grid(path: Path, rows: object, what: str) -> NDArray[np.float64]:
    """Nested JSON lists as one number per layer and head. [L, H]

    Args:
        path: where they stand, for the sentence.
        rows: the lists.
        what: what they are called there.

    Raises:
        BadFile: not a list of equally long lists of finite numbers.
    """
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        bad(path, f"must hold {what} as one list of numbers per layer")
    width = len(rows[0])
    for layer, row in enumerate(rows):
        if len(row) != width:
            bad(path, f"has {len(row)} {what} in layer {layer} and {width} in layer 0")
        for head, value in enumerate(row):
            if not is_number(value):
                bad(path, f"has {_short(value)} in layer {layer}, head {head} of {what}, not a finite number")
    check_size(path, len(rows), width)
    return np.asarray(rows, np.float64)


def check_size(path: Path, layers: int, heads: int) -> None:
    """Refuse a shape that no model has."""
    if max(layers, heads) > WIDEST:
        bad(path, f"speaks of {layers:,} layers and {heads:,} heads; at most {WIDEST:,} make sense")


def head_id(path: Path, text: str) -> tuple[int, int]:
    """Layer and head of a name such as `16-19`."""
    layer, dash, head = text.strip().partition("-")
    plain = [part.isascii() and part.isdigit() and len(part) <= 6 for part in (layer, head)]
    if not dash or not all(plain):
        bad(path, f"names a head {_short(text)}; a layer and a head are written like 16-19")
    return int(layer), int(head)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{_short(twice)} stands there twice")
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
