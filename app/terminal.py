"""Talking to a terminal: where output goes, how errors read, and who is allowed to speak."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console

from headscope.probes import HeadscopeError

F = TypeVar("F", bound=Callable[..., Any])


def speaks() -> bool:
    """Whether this process prints: of those that torchrun started, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def out() -> Console:
    """Results go to standard output."""
    return Console(quiet=not speaks(), highlight=False, soft_wrap=not sys.stdout.isatty())


def err() -> Console:
    """Everything that is not a result goes to standard error."""
    return Console(stderr=True, quiet=not speaks(), highlight=False, soft_wrap=not sys.stderr.isatty())


def say_json(text: str) -> None:
    """One JSON document on standard output, untouched by any wrapping or colour."""
    if speaks():
        typer.echo(text)


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
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        where = f"{str(error.filename)!r}: " if error.filename else ""
        return f"{where}{error.strerror or error}."
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
