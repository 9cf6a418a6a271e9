"""How far a scan is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    from headscope.heads import Progress as Step

_EVERY = 15.0  # seconds between lines where there is no terminal


@contextmanager
def reporting(console: Console) -> Iterator[Callable[[Step], None]]:
    """A callback for `scan` that shows its progress on `console`."""
    if console.quiet:
        yield lambda step: None
    elif not console.is_terminal:
        yield _lines(console)
    else:
        with _bar(console) as bar:
            task = bar.add_task("scan", total=1.0, left="", what="preparing")
            yield lambda step: bar.update(task, completed=step.share, left=left(step), what=_what(step))


def left(step: Step) -> str:
    """The time left, in words; nothing before there is a speed to judge by."""
    if step.seconds_left is None:
        return ""
    seconds = round(step.seconds_left)
    if step.done >= step.total:
        return "scoring"
    if seconds < 90:
        return f"about {max(seconds, 1)} s left"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min left"
    return f"about {seconds / 3600:.1f} h left"


def _what(step: Step) -> str:
    prompts = f"{step.done}/{step.total} prompts"
    return f"{prompts} · {step.prompt.task} {len(step.prompt):,} tokens" if step.prompt else prompts


def _bar(console: Console) -> Progress:
    columns: list[Any] = [
        SpinnerColumn(),
        BarColumn(32),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("[dim]{task.fields[what]}"),
    ]
    return Progress(*columns, console=console, transient=True)


def _lines(console: Console) -> Callable[[Step], None]:
    last = -_EVERY

    def say(step: Step) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _EVERY and step.done < step.total:
            return
        last = now
        words = [f"{step.done} of {step.total} prompts", f"{step.share:.0%} of the work", left(step)]
        console.print("Scan: " + ", ".join(w for w in words if w) + ".", markup=False)

    return say
