"""Taking head maps in from other programs, and handing maps and policies out to them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from headscope.heads.headmap import HeadMap
from headscope.heads.imported import Content, Known, to_headmap
from headscope.heads.losses import Loss, Rounding
from headscope.heads.policy import Policy
from headscope.probes import HeadscopeError, Registry, write_text, writing


@dataclass(frozen=True)
class Options:
    """What an export may be asked for.

    Attributes:
        score: the score column of a map, higher = needs full attention; the format's choice without.
        layers: for formats without heads, when a layer streams: if `all`, `most` or `any` of its KV
            groups do.
    """

    score: str | None = None
    layers: Rounding = "all"


@dataclass(frozen=True)
class Exported:
    """What an export consists of.

    Attributes:
        files: texts by file name; of a format that is a single file, under the empty name.
        losses: what the format cannot hold.
        usage: how the other program reads it, as commands or code.
    """

    files: Mapping[str, str]
    losses: tuple[Loss, ...]
    usage: str


@dataclass(frozen=True)
class Format:
    """A format, in its own file under `formats/`.

    Attributes:
        name: the format's name.
        summary: one line for `headscope list`.
        read: makes a map's content of a file or folder, if it can be imported.
        from_map: makes an export of a head map's scores, if they are enough.
        from_policy: makes an export of a policy.
        takes: the fields of `Options` that mean something to it.
    """

    name: str
    summary: str
    read: Callable[[Path, Known], Content] | None = None
    from_map: Callable[[HeadMap, Path, Options], Exported] | None = None
    from_policy: Callable[[Policy, Path, Options], Exported] | None = None
    takes: tuple[str, ...] = ()


FORMATS: Registry[Format] = Registry("format", "headscope.heads.formats")


def import_map(path: str | os.PathLike[str], format: str, known: Known | None = None) -> HeadMap:
    """Read another program's file as a head map.

    Args:
        path: the file or folder.
        format: a name in `FORMATS`.
        known: what the file does not say about its model.

    Raises:
        UnknownName: no such format.
        HeadscopeError: a format that is only written.
        BadFile: missing, damaged, too large, or at odds with `known`.
    """
    entry = FORMATS[format]
    if entry.read is None:
        raise HeadscopeError(f"{format} files say nothing about single heads, so none can be imported.")
    return to_headmap(entry.read(Path(path), known or Known()), format)


def open_source(path: str | os.PathLike[str]) -> HeadMap | Policy:
    """A head map or run folder, or (`.json`) a policy.

    Raises:
        BadFile: missing, damaged, or neither.
    """
    where = Path(path)
    return Policy.open(where) if where.suffix == ".json" else HeadMap.open(where)


def export(
    source: HeadMap | Policy, format: str, path: str | os.PathLike[str], options: Options | None = None
) -> Exported:
    """Write a head map or a policy for another program.

    Args:
        source: what to write.
        format: a name in `FORMATS`.
        path: the file or folder to write. It appears whole or not at all.
        options: choices that some formats leave.

    Returns:
        What was written, what was lost, how to use it.

    Raises:
        UnknownName: no such format, or no such score.
        HeadscopeError: the format needs a policy, or the map lacks what it needs.
        BadFile: the target cannot be written, or is a folder that holds other things.
    """
    entry, target = FORMATS[format], Path(path)
    made = _make(entry, source, target, options or Options())
    if set(made.files) == {""}:
        write_text(target, made.files[""])
    else:
        _write_folder(target, made.files)
    return made


def _make(entry: Format, source: HeadMap | Policy, target: Path, options: Options) -> Exported:
    for choice in fields(options):
        if choice.name not in entry.takes and getattr(options, choice.name) != choice.default:
            raise HeadscopeError(f"{entry.name} leaves no choice of --{choice.name}.")
    if isinstance(source, Policy):
        if options.score is not None:
            raise HeadscopeError("A policy is exported as it is; --score chooses a column of a head map.")
        if entry.from_policy is None:
            raise HeadscopeError(f"{entry.name} files hold scores; export the head map, not its policy.")
        return entry.from_policy(source, target, options)
    if entry.from_map is None:
        raise HeadscopeError(
            f"{entry.name} files hold a decision about every head, and a head map only scores; "
            "give --ratio, or export a policy of it (HeadMap.policy)."
        )
    return entry.from_map(source, target, options)


def _write_folder(target: Path, files: Mapping[str, str]) -> None:
    """Fill a folder beside `target`, then move it there; an older export of the same files gives way."""
    with writing(target):
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise HeadscopeError(f"{str(target)!r} is not a folder; choose another --out.")
        if target.exists() and {p.name for p in target.iterdir()} - set(files):
            raise HeadscopeError(f"{str(target)!r} holds other files already; choose another --out.")
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for name, text in files.items():
                write_text(fresh / name, text)
            fresh.chmod(0o755)
            _swap(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _swap(fresh: Path, target: Path) -> None:
    """Move `fresh` to `target`; an older folder there is deleted once the new one stands in its place."""
    if not target.exists():
        fresh.rename(target)
        return
    old = fresh.with_name(f"{fresh.name}.old")
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
