"""Interventions: a spec of the run or one made here, and what it does to an answer."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import address, causes, evaluations, fitting, held, look, store, trying
from headscope.app.dashboard.methodform import form, shows_pictures
from headscope.app.fitcost import cost_of
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.app.wanted import Wanted
    from headscope.heads import HeadMap, Manifest
    from headscope.probes import Spec

_HERE = "made here"


def show() -> None:
    """Draw the page."""
    left, right = st.columns((3, 1), vertical_alignment="bottom")
    with right:
        run = store.chosen_run()
    headmap = store.headmap(run)
    look.install(headmap)
    with left:
        look.heading(
            "Interventions",
            eyebrow=f"{headmap.meta.model}: change what heads do, and see what the model says then",
        )
    specs = held.specs(run)
    chosen = address.choose("Intervention", "spec", [_HERE, *specs], _HERE) if specs else _HERE
    manifest = store.manifest(run)
    source = manifest.plan.model if manifest else headmap.meta.model
    pictures = shows_pictures(headmap)
    if chosen == _HERE:
        wanted = _wanted(run, headmap, manifest, source)
        spec = fitting.show(run, manifest, wanted) if manifest else None
        file = f"{wanted.method}.json" if wanted else "vhr.json"
        if spec and wanted and manifest:
            file = str(run.path / held.place(wanted, manifest.plan.fingerprint))
    else:
        wanted, spec = None, _at_strength(specs[chosen])
        file = str(run.path / chosen) if spec == specs[chosen] else ""
    trying.show(run, manifest, spec, None if spec else wanted, file, pictures=pictures)
    evaluations.show(run, headmap, _command(source, wanted, file, pictures))
    causes.show(run, headmap)


def _at_strength(spec: Spec) -> Spec:
    """A spec, as it was fitted or at the strength that the slider says."""
    fitting.described(spec)
    if len(set(spec.strengths)) > 1:
        return spec
    kept = spec.strengths[0]
    low, high = min(-1.0, kept), max(4.0, kept)
    strength = address.slide("Kept of the original", "kept", low, high, kept, step=0.05, form="%.2f")
    return spec if strength == kept else spec.with_strength(strength)


def _command(source: str, wanted: Wanted | None, file: str, pictures: bool) -> str:
    """What evaluates an intervention: this one, where the command that fits it can be had."""
    if pictures:
        return shlex.join(["headscope", "evaluate", source, "--with", file or "vhr.json"])
    some = ["headscope", "intervene", "zero", source, "--head", "L0H0"]
    return wanted.command(source) if wanted else shlex.join(some)


def _wanted(run: Run, headmap: HeadMap, manifest: Manifest | None, source: str) -> Wanted | None:
    """What the form asks for, with its command line; None, and a sentence, where that cannot be had."""
    try:
        wanted = form(run, headmap)
        wanted.check(headmap.meta.geometry)
        look.note(fitting.cost(cost_of(wanted), manifest))
    except HeadscopeError as error:
        look.error(str(error))
        return None
    st.code(wanted.command(source), language=None, wrap_lines=True)
    return wanted
