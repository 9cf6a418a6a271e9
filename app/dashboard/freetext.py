"""The part of the head page that runs a text of the user's through the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import address, live, look, store, strips
from headscope.app.dashboard.look import plain
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap

_SAMPLE = "The capital of France is Paris. The capital of Italy is Rome. The capital of France is"
_IN_ADDRESS = 1500  # characters; longer texts stay on the page alone


def show(run: Run, headmap: HeadMap, layer: int, head: int) -> None:
    """A text, and where this head looks from each of its tokens."""
    look.section("Your own text", "The only part of this page that needs the model itself.")
    manifest = store.manifest(run)
    if manifest is None:
        look.note("This map was not made by a scan here, so it is not known which model to load.")
        return
    source, fingerprint = manifest.plan.model, manifest.plan.fingerprint
    st.session_state.setdefault("text", address.asked("text") or _SAMPLE)
    text = st.text_area("Text", key="text", height=110, label_visibility="collapsed")
    if st.button(f"Run it through {plain(source)}", key="read"):
        st.session_state["text read"] = text
        address.put(text=text if len(text) <= _IN_ADDRESS else None, **{"from": None})
    if st.session_state.get("text read"):
        _draw(source, fingerprint, st.session_state["text read"], layer, head)


def _draw(source: str, fingerprint: str, text: str, layer: int, head: int) -> None:
    try:
        with st.spinner("Running the model"):
            reading = live.reading(source, fingerprint, text, layer)
    except HeadscopeError as error:
        look.error(str(error))
        return
    n, begin = len(reading.tokens), 0
    if n > strips.WINDOW:
        last = float(n - strips.WINDOW)
        begin = int(address.slide("From token", "from", 0.0, last, 0.0, step=64.0, form="%d"))
    rows = reading.rows(layer, head, begin, begin + strips.WINDOW)
    strips.strip(reading.tokens, rows, begin, key="own-text", at=min(begin + strips.WINDOW, n) - 1)
