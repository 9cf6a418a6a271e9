"""What else a run folder holds: policies and interventions, in JSON files of its own or in a folder in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import streamlit as st

from headscope.app.dashboard import jobs, store
from headscope.app.dashboard.shelf import Run
from headscope.probes import BadFile

if TYPE_CHECKING:
    from headscope.app.evaluated import Evaluated
    from headscope.app.wanted import Wanted
    from headscope.heads import Policy
    from headscope.probes import Spec

_OURS = {"manifest.json", jobs.Scan.FILE, jobs.Fit.FILE}
_SPECS = "interventions"  # where specs made here are kept
_LARGEST = 64 << 20
T = TypeVar("T")


def policies(run: Run) -> dict[str, Policy]:
    """Policy files, by their name in the run folder; what is none is left out."""
    from headscope.heads import Policy

    return _held(run, Policy.open)


def specs(run: Run) -> dict[str, Spec]:
    """Specs of interventions, by their name in the run folder; what is none is left out."""
    from headscope.probes import Spec

    return _held(run, Spec.open)


def evaluations(run: Run) -> dict[str, list[Evaluated]]:
    """Tables of evaluations, by the name of their file in the run folder; what is none is left out."""
    from headscope.app.evaluated import read

    return _held(run, read)


def place(wanted: Wanted, fingerprint: str) -> str:
    """Where in the run folder the spec of what is wanted stands once it is fitted to these weights."""
    digest = hashlib.sha256(f"{fingerprint} {wanted!r}".encode()).hexdigest()[:8]
    return f"{_SPECS}/{wanted.method}-{digest}.json"


def _held(run: Run, read: Callable[[Path], T]) -> dict[str, T]:
    """What `read` can read, by name."""
    kind = f"{read.__module__}.{read.__qualname__}"
    found = {str(f.relative_to(run.path)): _opened(kind, store.stamp(f), read) for f in _files(run)}
    return {name: one for name, one in found.items() if one is not None}


@st.cache_resource(max_entries=512, show_spinner=False)
def _opened(kind: str, file: store.Stamp, _read: Callable[[Path], T]) -> T | None:
    try:
        return _read(Path(file[0]))
    except BadFile:
        return None


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
