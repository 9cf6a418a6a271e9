"""From what the form asks for to a spec: fitted when asked to, shown, downloaded, kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import address, held, live, look
from headscope.app.dashboard.look import plain
from headscope.probes import HeadscopeError, json_text

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.app.fitcost import FitCost
    from headscope.app.wanted import Wanted
    from headscope.heads import Manifest
    from headscope.probes import Spec

_SHOWN = 12


def show(run: Run, manifest: Manifest, wanted: Wanted) -> None:
    """A button that fits, and then the spec."""
    source, fingerprint = manifest.plan.model, manifest.plan.fingerprint
    if st.button(f"Fit it to {plain(source)}", key="fit"):
        st.session_state["fitted"] = wanted
    if st.session_state.get("fitted") != wanted:
        return
    try:
        with st.spinner("Fitting"):
            spec, seconds = live.fitted(source, fingerprint, wanted)
    except HeadscopeError as error:
        look.error(str(error))
        return
    described(spec)
    look.note(f"Fitted in {seconds:.1f} s.")
    with st.container(horizontal=True):
        st.download_button(
            "Download the spec", json_text(spec), file_name=f"{spec.method}.json", mime="application/json",
            key="download-spec", on_click="ignore",
        )  # fmt: skip
        if run.folder and st.button(
            "Keep it in the run", key="keep", help="Then its address shows this very spec."
        ):
            address.put(spec=held.keep(run, spec))
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
