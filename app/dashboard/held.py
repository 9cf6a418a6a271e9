"""What else a run folder holds: policies and interventions, in JSON files of its own or in a folder in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import streamlit as st

from headscope.app.dashboard import store
from headscope.app.dashboard.shelf import Run
from headscope.probes import BadFile, json_text, write_json

if TYPE_CHECKING:
    from headscope.app.evaluated import Evaluated
    from headscope.heads import Policy
    from headscope.probes import Spec

_OURS = {"manifest.json", "scan.json"}
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


def keep(run: Run, spec: Spec) -> str:
    """Write a spec into the run folder; its name there, in which its content is hashed."""
    digest = hashlib.sha256(json_text(spec).encode()).hexdigest()[:8]
    name = f"{_SPECS}/{spec.method}-{digest}.json"
    write_json(run.path / name, spec)
    return name


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
