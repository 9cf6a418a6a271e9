"""From what the form asks for to a spec of the run: fitted when asked to, watched, shown, downloaded."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import held, jobs, live, look
from headscope.app.dashboard.jobs import Fit
from headscope.app.dashboard.look import plain
from headscope.probes import json_text

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.app.fitcost import FitCost
    from headscope.app.wanted import Wanted
    from headscope.heads import Manifest
    from headscope.probes import Spec

_SHOWN = 12
_FAR = re.compile(r"(\d+) of (\d+) ")  # how `headscope intervene` counts passes


def show(run: Run, manifest: Manifest, wanted: Wanted | None) -> Spec | None:
    """What is wanted, where the run holds it; else a button that has it fitted, and how far that is.

    Fitting is a process of its own: nobody waits for it, and the page may be closed or reloaded.
    """
    busy = jobs.alive(run.path, Fit)
    if busy:
        st.fragment(_watch, run_every=1.0)(run)
    if wanted is None:
        return None
    name = held.place(wanted, manifest.plan.fingerprint)
    spec = held.specs(run).get(name)
    if spec is None:
        if not busy:
            _ask(run, manifest, wanted, name)
        return None
    if spec.fingerprint != manifest.plan.fingerprint:
        look.error(f"{name} is of a model with other weights than this run's.")
    described(spec)
    look.note(f"Kept in the run as {name}.")
    st.download_button(
        "Download the spec", json_text(spec), file_name=f"{spec.method}.json", mime="application/json",
        key="download-spec", on_click="ignore",
    )  # fmt: skip
    return spec


def _ask(run: Run, manifest: Manifest, wanted: Wanted, name: str) -> None:
    """The button, below why it came to nothing the last time."""
    if (run.path / Fit.FILE).is_file() and jobs.read(run.path, Fit).spec == name:
        words = jobs.last_words(run.path, Fit)
        told = words and not _FAR.match(words)
        look.error(words if told else f"Fitting {wanted.method} was ended before it was done.")
    if st.button(f"Fit it to {plain(manifest.plan.model)}", key="fit", help="In a process of its own."):
        job = Fit(model=manifest.plan.model, method=wanted.method, options=tuple(wanted.options()), spec=name)
        jobs.start(run.path, job)
        st.rerun()


def _watch(run: Run) -> None:
    """How far the fit is; drawn again every second while it lasts."""
    if not jobs.alive(run.path, Fit):
        st.rerun()  # it has ended: the page shows what came of it
    job, words = jobs.read(run.path, Fit), jobs.last_words(run.path, Fit)
    far = _FAR.match(words)
    done, total = map(int, far.groups()) if far else (0, 0)
    seconds = (datetime.now(UTC) - datetime.fromisoformat(job.started)).total_seconds()
    count = f"{done} of at most {total} passes" if far else "loading the model"
    words = f"Fitting {job.method} · {count} · {seconds:.0f} s"
    look.html(look.part("progress", words=words, what="passes", done=done, total=total))
    if st.button("Stop", key="stop-fit", help="What it has found so far is lost."):
        jobs.stop(run.path, Fit)
        (run.path / Fit.FILE).unlink(missing_ok=True)
        st.rerun()


def cost(found: FitCost, manifest: Manifest | None) -> str:
    """What fitting takes; with a time, once the model is there to be timed."""
    if manifest is None or not found.passes or not live.loaded(manifest.plan.model):
        return str(found)
    return found.with_pace(live.pace(manifest.plan.model, manifest.plan.fingerprint, found.tokens))


def described(spec: Spec) -> None:
    """What a spec changes, and where it came from."""
    names = ", ".join(map(str, spec.heads[:_SHOWN]))
    more = f" and {len(spec.heads) - _SHOWN} more" if len(spec.heads) > _SHOWN else ""
    strengths = sorted(set(spec.strengths))
    kept = f"{strengths[0]:g}" if len(strengths) == 1 else f"{strengths[0]:g} to {strengths[-1]:g}"
    note = f" {spec.source.note[:1].upper()}{spec.source.note[1:]}." if spec.source.note else ""
    look.note(f"{spec.method} on {names}{more}; strength {kept}, {spec.positions} rows.{note}")
