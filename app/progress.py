"""How far a scan or a training is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

_EVERY = 15.0  # seconds between lines where there is no terminal


class Step(Protocol):
    """How far something is: things done of all, the share of the work, and the time left."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def share(self) -> float: ...
    @property
    def seconds_left(self) -> float | None: ...


def _prompt(step: Any) -> str:
    return f"{step.prompt.task} {len(step.prompt):,} tokens" if step.prompt else ""


@dataclass(frozen=True)
class Words:
    """What progress is told in.

    Attributes:
        title: what is going on.
        things: what is counted.
        last: what follows when all are done.
        detail: says more about a step, or nothing.
    """

    title: str = "Scan"
    things: str = "prompts"
    last: str = "scoring"
    detail: Callable[[Any], str] = _prompt


@contextmanager
def reporting(console: Console, words: Words = Words()) -> Iterator[Callable[[Step], None]]:
    """A callback that shows the progress of a scan, or of what `words` speak of, on `console`."""
    if console.quiet:
        yield lambda step: None
    elif not console.is_terminal:
        yield _lines(console, words)
    else:
        with _bar(console) as bar:
            task = bar.add_task(words.title, total=1.0, left="", what="preparing")

            def show(step: Step) -> None:
                counted = f"{step.done}/{step.total} {words.things}"
                what = " · ".join(x for x in (counted, words.detail(step)) if x)
                bar.update(task, completed=step.share, left=left(step, words.last), what=what)

            yield show


@contextmanager
def counting(console: Console, what: str, *, every: float = _EVERY) -> Iterator[Callable[[int, int], None]]:
    """A callback that shows how many of all `what` are done, as a bar or as lines `every` so many seconds."""
    if console.quiet:
        yield lambda done, total: None
    elif not console.is_terminal:
        last = -every

        def say(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= every or done == total:
                last = time.monotonic()
                console.print(f"{done} of {total} {what}.", markup=False)

        yield say
    else:
        with _bar(console) as bar:
            task = bar.add_task(what, total=1.0, left="", what="preparing")
            yield lambda done, total: bar.update(
                task, completed=done / total, left="", what=f"{done}/{total} {what}"
            )


def left(step: Step, last: str = "scoring") -> str:
    """The time left, in words; nothing before there is a speed to judge by."""
    if step.seconds_left is None:
        return ""
    seconds = round(step.seconds_left)
    if step.done >= step.total:
        return last
    if seconds < 90:
        return f"about {max(seconds, 1)} s left"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min left"
    return f"about {seconds / 3600:.1f} h left"


def _bar(console: Console) -> Progress:
    columns: list[Any] = [
        SpinnerColumn(),
        BarColumn(32),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("[dim]{task.fields[what]}"),
    ]
    return Progress(*columns, console=console, transient=True)


def _lines(console: Console, words: Words) -> Callable[[Step], None]:
    last = -_EVERY

    def say(step: Step) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _EVERY and step.done < step.total:
            return
        last = now
        done = f"{step.done} of {step.total} {words.things}"
        told = [done, f"{step.share:.0%} of the work", left(step, words.last)]
        console.print(f"{words.title}: " + ", ".join(t for t in told if t) + ".", markup=False)

    return say
