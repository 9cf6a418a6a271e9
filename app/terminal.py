"""Talking to a terminal: where output goes, how errors read, and who is allowed to speak."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from headscope.probes import HeadscopeError

F = TypeVar("F", bound=Callable[..., Any])
# What a terminal obeys rather than shows: control characters and overrides of the text's direction.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def speaks() -> bool:
    """Whether this process prints: of those that torchrun started, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def prepare() -> None:
    """Let a terminal that knows few letters show the others by their numbers; nothing fails over them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def harmless(text: str) -> str:
    """`text` without what a terminal would obey: names and texts come from files that others wrote."""
    return _COMMANDS.sub("", text)


class Paper(Console):
    """A console that is written on, never commanded, by what it prints."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else harmless(segment.text)
            yield segment if text == segment.text else segment._replace(text=text)


def out() -> Console:
    """Results go to standard output."""
    return Paper(quiet=not speaks(), highlight=False, soft_wrap=not sys.stdout.isatty())


def err() -> Console:
    """Everything that is not a result goes to standard error."""
    return Paper(stderr=True, quiet=not speaks(), highlight=False, soft_wrap=not sys.stderr.isatty())


def say_json(text: str) -> None:
    """One JSON document on standard output, untouched by any wrapping or colour."""
    if speaks():
        wide = str(getattr(sys.stdout, "encoding", "") or "utf-8").lower().startswith("utf")
        # Beyond ASCII there are only strings, which may as well be written in escapes.
        beyond = "[\x7f-\x9f\ud800-\udfff]" if wide else "[^\x00-\x7e]"
        typer.echo(re.sub(beyond, lambda found: json.dumps(found[0])[1:-1], text))


def quiet() -> None:
    """Keep other libraries' bars and warnings out of the output; call before they load."""
    import warnings

    for name in (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "HF_HUB_DISABLE_TELEMETRY",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS",
    ):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def sentence(error: BaseException) -> str | None:
    """An error that the user can put right as one sentence; None for a bug of ours."""
    if isinstance(error, HeadscopeError):
        return harmless(" ".join(str(error).split()))
    if isinstance(error, OSError):
        where = f"{str(error.filename)!r}: " if error.filename else ""
        return harmless(f"{where}{error.strerror or error}.")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "The device ran out of memory; a smaller --context or a bfloat16 --dtype needs less."
    return None


def guarded(command: F) -> F:
    """A command whose user errors are one sentence on standard error and exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except BrokenPipeError:  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            typer.echo("Stopped.", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            text = sentence(error)
            if text is None:
                raise
            # A process that does not speak must still be able to say why it died.
            who = "" if speaks() else f"[process {os.environ.get('RANK')}] "
            typer.echo(f"{who}{text}", err=True)
            raise typer.Exit(2) from None

    return run  # type: ignore[return-value]


def check_target(path: Path | None) -> None:
    """Refuse an --out file that cannot be written before anything is measured for it.

    Raises:
        HeadscopeError: a folder, or a place where nothing can be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise HeadscopeError(f"--out {str(path)!r} is a folder; give a file.")
    there = next(p for p in path.absolute().parents if p.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise HeadscopeError(
            f"--out is {str(path)!r}, but {str(there)!r} is no folder that can be written to."
        )


def read_haystack(path: Path) -> str:
    """The text of a haystack file.

    Raises:
        HeadscopeError: unreadable, not text, or empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise HeadscopeError(
            f"--haystack {str(path)!r} cannot be read: {error.strerror or error}."
        ) from error
    except UnicodeDecodeError:
        raise HeadscopeError(f"--haystack {str(path)!r} is not UTF-8 text.") from None
    if "\0" in text:
        raise HeadscopeError(f"--haystack {str(path)!r} is a binary file, not text.")
    if not text.strip():
        raise HeadscopeError(f"--haystack {str(path)!r} is empty.")
    return text
