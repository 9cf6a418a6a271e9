"""What pages read, read once: kept until the file on disk changes. Nothing here may be changed in place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import address, shelf
from headscope.app.dashboard.serve import RUNS
from headscope.app.dashboard.shelf import Run
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import HeadMap, Look, Manifest, ShownPrompt, TaskCircuits
    from headscope.probes import Picture

Stamp = tuple[str, int, int]
_PICTURES = 2  # shown of a head


def root() -> Path:
    """The folder the dashboard may read."""
    return Path(os.environ.get(RUNS, "runs")).resolve()


def chosen_run(name: str = "run", *, label: str = "Run", hidden: bool = True, other_than: str = "") -> Run:
    """The run that the address names, or the one seen last, or the newest; with a list to change it.

    Args:
        name: what the address calls it.
        label, hidden: of the list.
        other_than: a run that is no good default, because it is shown beside this one.

    Raises:
        HeadscopeError: no such run, none that can be shown, or a damaged one.
    """
    names = shelf.maps(root())
    wanted = address.asked(name) or _default(names, st.session_state.get(f"last-{name}", ""), other_than)
    if not wanted:
        raise HeadscopeError("No run here has a head map yet; the Runs page can start a scan.")
    found = shelf.find(root(), wanted)
    if found.status == "damaged":
        raise HeadscopeError(f"The run {wanted!r} cannot be shown. {found.note}")
    if wanted not in names:
        raise HeadscopeError(f"The run {wanted!r} cannot be shown: its scan is {found.status}.")
    address.put(**{name: wanted})
    st.session_state[f"last-{name}"] = wanted
    address.choose(label, name, names, wanted, hidden=hidden)
    return found


def _default(names: list[str], last: str, other_than: str) -> str:
    """The run seen last, else the newest that is not `other_than`, else whatever there is."""
    if last in names:
        return last
    return next((n for n in names if n != other_than), names[0] if names else "")


def headmap(run: Run) -> HeadMap:
    """The run's head map."""
    return _headmap(str(run.path), version(run))


def version(run: Run) -> Stamp:
    """Changes when the run's head map does."""
    return stamp(run.path / "headmap.parquet" if run.folder else run.path)


def manifest(run: Run) -> Manifest | None:
    """How the run was made; None where it was not a scan."""
    file = run.path / "manifest.json"
    return _manifest(stamp(file)) if run.folder and file.is_file() else None


def layers(run: Run) -> pd.DataFrame | None:
    """The table of extreme tokens; None where the run has none."""
    file = run.path / "layers.parquet"
    return _layers(stamp(file)) if run.folder and file.is_file() else None


def evidence(run: Run, head: tuple[int, int]) -> tuple[tuple[ShownPrompt, ...], pd.DataFrame] | None:
    """The run's prompts and one head's rows; None where the run has no evidence."""
    file = run.path / "evidence" / "rows.parquet"
    if not run.folder or not file.is_file():
        return None
    return _evidence(str(file.parent), head, stamp(file), stamp(file.with_name("prompts.json")))


def circuit_tasks(run: Run) -> list[str]:
    """Tasks whose circuits the run holds."""
    from headscope.heads import tasks_with_circuits

    return tasks_with_circuits(run.path) if run.folder else []


def circuits(run: Run, task: str) -> TaskCircuits:
    """What the run holds about one task's circuits."""
    folder = run.path / "circuits" / task
    return _circuits(str(run.path), task, tuple(stamp(file) for file in sorted(folder.glob("*.json"))))


def looks(run: Run, head: tuple[int, int]) -> list[Look]:
    """Where one head looks in the first pictures of the run's evidence; empty without any."""
    file = run.path / "evidence" / "looks.parquet"
    return _looks(str(file.parent), head, stamp(file))[:_PICTURES] if run.folder and file.is_file() else []


def scenes(run: Run) -> dict[str, tuple[Path, str]]:
    """The pictures of the run's evidence by the names of their files, and what was asked about each."""
    from headscope.probes import is_image_span

    file = run.path / "evidence" / "looks.parquet"
    shown = evidence(run, (0, 0))
    if not run.folder or not file.is_file() or shown is None:
        return {}
    prompts, found = {p.index: p for p in shown[0]}, {}
    for look in _looks(str(file.parent), (0, 0), stamp(file)):
        prompt = prompts.get(look.prompt)
        name = look.picture.digest
        if prompt is not None:
            ends = [stop for span, (_, stop) in prompt.spans.items() if is_image_span(span)]
            words = prompt.tokens[max(ends, default=0) : prompt.answer[0] if prompt.answer else None]
            # Vocabularies of whole words leave the spaces out.
            text = ("" if any(" " in word for word in words) else " ").join(words).strip()
            found[name] = (file.parent / f"{name}.png", text)
    return found


def pictures(run: Run, folder: str) -> dict[str, Path]:
    """Pictures that were brought along, by name."""
    home = run.path / folder
    return {p.stem: p for p in sorted(home.glob("*.png"))} if run.folder and home.is_dir() else {}


def picture(file: Path) -> Picture:
    """A picture of the run folder."""
    return _picture(stamp(file))


def stamp(file: Path) -> Stamp:
    """Changes when the file does."""
    try:
        found = file.stat()
    except OSError:
        return (str(file), 0, 0)
    return (str(file), found.st_mtime_ns, found.st_size)


@st.cache_resource(max_entries=16, show_spinner=False)
def _picture(stamp: Stamp) -> Picture:
    from headscope.probes import Picture

    return Picture.open(stamp[0])


@st.cache_resource(max_entries=6, show_spinner=False)
def _headmap(path: str, stamp: Stamp) -> HeadMap:
    from headscope.heads import HeadMap

    return HeadMap.open(path)


@st.cache_resource(max_entries=20, show_spinner=False)
def _manifest(stamp: Stamp) -> Manifest | None:
    from headscope.heads import Manifest, read_manifest

    found = read_manifest(Path(stamp[0]))
    return found if isinstance(found, Manifest) else None


@st.cache_resource(max_entries=6, show_spinner=False)
def _layers(stamp: Stamp) -> pd.DataFrame:
    from headscope.heads import read_layers

    return read_layers(Path(stamp[0]))


@st.cache_resource(max_entries=6, show_spinner=False)
def _circuits(run: str, task: str, stamps: tuple[Stamp, ...]) -> TaskCircuits:
    from headscope.heads import open_circuits

    return open_circuits(run, task)


@st.cache_resource(max_entries=32, show_spinner=False)
def _evidence(
    folder: str, head: tuple[int, int], rows: Stamp, prompts: Stamp
) -> tuple[tuple[ShownPrompt, ...], pd.DataFrame]:
    from headscope.heads import read_evidence

    return read_evidence(Path(folder), head)


@st.cache_resource(max_entries=32, show_spinner=False)
def _looks(folder: str, head: tuple[int, int], table: Stamp) -> list[Look]:
    from headscope.heads import read_looks

    return read_looks(Path(folder), head)
