"""What else a run folder holds: policies and interventions, in JSON files of its own or in a folder in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from headscope.app.dashboard.shelf import Run
from headscope.probes import BadFile

if TYPE_CHECKING:
    from headscope.heads import Policy
    from headscope.probes import Spec

_OURS = {"manifest.json", "scan.json"}
_LARGEST = 64 << 20
T = TypeVar("T")


def policies(run: Run) -> dict[str, Policy]:
    """Policy files, by their name in the run folder; what is none is left out."""
    from headscope.heads import Policy

    return _held(run, Policy)


def specs(run: Run) -> dict[str, Spec]:
    """Specs of interventions, by their name in the run folder; what is none is left out."""
    from headscope.probes import Spec

    return _held(run, Spec)


def _held(run: Run, kind: type[T]) -> dict[str, T]:
    found = {}
    for file in _files(run):
        try:
            found[str(file.relative_to(run.path))] = kind.open(file)  # type: ignore[attr-defined]
        except BadFile:
            continue
    return found


def _files(run: Run) -> list[Path]:
    """JSON files in the run folder and one folder down, the evidence left out."""
    if run.folder is None:
        return []
    near = [p for pattern in ("*.json", "*/*.json") for p in sorted(run.folder.glob(pattern))]
    return [
        p
        for p in near
        if p.name not in _OURS
        and p.parent.name != "evidence"
        and p.is_file()
        and p.stat().st_size <= _LARGEST
    ]
