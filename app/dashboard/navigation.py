"""From page to page, the run and its thresholds with it, every step one step of the browser's history."""

from __future__ import annotations

from urllib.parse import urlencode

import streamlit as st

from headscope.app.dashboard import address

PAGES = {
    "runs": ("Runs", ":material/folder_open:"),
    "atlas": ("Atlas", ":material/grid_on:"),
    "head": ("Head", ":material/center_focus_strong:"),
    "sinks": ("Sinks", ":material/water_drop:"),
    "compare": ("Compare", ":material/compare_arrows:"),
    "policy": ("Policy", ":material/tune:"),
    "interventions": ("Interventions", ":material/build:"),
    "circuits": ("Circuits", ":material/account_tree:"),
}
_KEPT = ("run", "at.")  # what the pages of a run share


def shared() -> dict[str, str]:
    """The part of the address that all pages of a run share."""
    kept = address.kept(*_KEPT)
    last = st.session_state.get("last-run")
    return kept if "run" in kept or not last else kept | {"run": last}


def bar() -> None:
    """Links to all pages."""
    query = shared()
    with st.container(horizontal=True, key="pages", gap="small"):
        for name, (title, icon) in PAGES.items():
            st.page_link(f"screens/{name}.py", label=title, icon=icon, query_params=query)


def url(page: str, **query: object) -> str:
    """The address of a view, relative to the server."""
    return f"/{page}?{urlencode(shared() | {name: str(value) for name, value in query.items()})}"
