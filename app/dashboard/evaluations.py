"""Evaluations that a run holds, each beside its controls; or the commands that make them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from headscope.app.dashboard import held, look

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap


def show(run: Run, headmap: HeadMap, command: str) -> None:
    """Every table of every evaluation in the run folder; `command` makes one that prints itself as JSON."""
    look.section("Evaluations", "Many prompts, with the opposite change and random heads beside it.")
    found = held.evaluations(run)
    for name, tables in found.items():
        look.note(name)
        if any(t.fingerprint != headmap.meta.fingerprint for t in tables):
            look.error(f"{name} is of a model with other weights than this run's.")
        for table in tables:
            look.html(look.part("measure", title=table.title, about=""))
            look.html(look.part("table", headers=table.headers, rows=table.rows))
            look.note(table.about)
    if found:
        return
    look.empty(
        "No evaluation here yet",
        "What headscope intervene and headscope evaluate print with --json is shown here when it lies in the "
        "run folder.",
        f"{command} --json > {shlex.quote(str(run.path / 'evaluation.json'))}",
    )
