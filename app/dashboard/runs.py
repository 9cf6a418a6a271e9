"""The first page: what has been scanned, what is being scanned, and a form for a new scan."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from headscope.app.cli_scan import slug
from headscope.app.dashboard import imports, jobs, look, shelf, store
from headscope.app.dashboard.address import asked, put
from headscope.app.dashboard.jobs import Scan
from headscope.app.dashboard.look import plain
from headscope.app.dashboard.shelf import Run
from headscope.probes import HeadscopeError

_COLUMNS = (3.2, 2.0, 1.8, 1.5, 2.6)
_PAGE = 25


def show() -> None:
    """Draw the page."""
    root = store.root()
    look.heading("Runs", eyebrow=f"in {root}")
    words = _filter()
    _list(words)
    look.section("Scan a model", "It runs as a process of its own: close or reload this page as you like.")
    _form()
    imports.form()


def _filter() -> str:
    st.session_state["filter"] = asked("q")
    return st.text_input(
        "Filter", key="filter", placeholder="Filter by name, model, preset or status", on_change=_filtered,
        label_visibility="collapsed", icon=":material/search:",
    )  # fmt: skip


def _filtered() -> None:
    put(q=st.session_state["filter"] or None)


def _list(words: str) -> None:
    busy = any(run.busy for run in shelf.shelf(store.root()))
    st.fragment(_table, run_every=1.0 if busy else None)(words)


def _table(words: str) -> None:
    """Drawn again every second while a scan or a fit runs."""
    runs = shelf.shelf(store.root())
    matching = [run for run in runs if _matches(run, words)]
    if not runs:
        look.empty(
            "No run yet", "A scan makes one: start it below, or in a terminal.",
            "headscope scan smollm2 --preset quick",
        )  # fmt: skip
        return
    if not matching:
        look.note(f"None of the {len(runs)} runs matches “{words}”.")
    shown = matching[: _PAGE * int(st.session_state.get("pages", 1))]
    for run in shown:
        _row(run)
    if len(shown) < len(matching) and st.button(f"Show more ({len(matching) - len(shown)} left)"):
        st.session_state["pages"] = int(st.session_state.get("pages", 1)) + 1
        st.rerun()
    busy = any(run.busy for run in runs)
    if st.session_state.get("was busy") and not busy:
        st.session_state["was busy"] = False
        st.rerun()  # the last job has ended: stop drawing every second
    st.session_state["was busy"] = busy


def _matches(run: Run, words: str) -> bool:
    text = " ".join((run.name, run.model, run.preset, run.status)).casefold()
    return all(word in text for word in words.casefold().split())


def _row(run: Run) -> None:
    with st.container(border=True, key=f"run-{run.name}"):
        name, model, made, status, action = st.columns(_COLUMNS, vertical_alignment="center")
        with name:
            if run.readable:
                st.page_link(
                    "screens/atlas.py", label=f"**{plain(run.name)}**", query_params={"run": run.name}
                )
            else:
                look.html(Markup('<div class="hs-cell"><b>{}</b></div>').format(run.name))
        with model:
            _cell(run.model or "–", f"{run.shape} heads" if run.shape else "")
        with made:
            _cell(run.preset or "–", f"up to {run.context:,} tokens" if run.context else "")
        with status:
            look.html(Markup('<span class="hs-status {}">{}</span>').format(run.status, run.status))
        with action:
            _progress(run)
            _actions(run)


def _cell(text: str, small: str) -> None:
    look.html(Markup('<div class="hs-cell">{}<small>{}</small></div>').format(text, small))


def _progress(run: Run) -> None:
    """The date of what is done, how far the rest is, and the error of what is neither."""
    if run.status == "done":
        _cell("", run.date.replace("T", " ").replace("+00:00", " UTC"))
        if run.fitting:
            label = f"Fitting {plain(run.fitting)}"
            st.page_link("screens/interventions.py", label=label, query_params={"run": run.name})
        return
    count = f"{run.done} of {run.total} prompts" if run.total else ""
    scoring = run.total and run.done == run.total and run.status == "running"
    left = run.note.rsplit(", ", 1)[-1].rstrip(".") if " left" in run.note else ""
    note = left if run.note.startswith("Scan:") else run.note
    words = " · ".join(w for w in (count, "scoring" if scoring else note) if w)
    look.html(look.part("progress", words=words, what="prompts observed", done=run.done, total=run.total))


def _actions(run: Run) -> None:
    if run.status == "running" and st.button("Stop", key=f"stop-{run.name}", help="It can go on later."):
        jobs.stop(run.path, Scan)
        st.rerun()
    ours = run.status in ("unfinished", "failed") and (run.path / Scan.FILE).is_file()
    if ours and st.button("Go on", key=f"again-{run.name}", help="The same scan, from what it has observed."):
        jobs.scan(store.root(), run.name, jobs.read(run.path, Scan))
        st.rerun()


def _form() -> None:
    from headscope.heads import PRESETS

    with st.form("scan", border=False):
        a, b, c, d = st.columns((3, 1.4, 1.4, 2.4))
        model = a.text_input("Model", "smollm2", help="smollm2, org/name on a hub, a folder, or a .gguf file")
        preset = b.selectbox("Preset", list(PRESETS), index=list(PRESETS).index("quick"))
        context = c.number_input("Longest prompt", 0, None, 0, 256, help="In tokens; 0 takes the preset's.")
        name = d.text_input("Name", "", placeholder="made of model and preset")
        look.note(" ".join(f"{p.name}: {p.about}." for p in PRESETS.values()))
        asked_for = st.form_submit_button("Start the scan", type="primary")
    if asked_for:
        _start(model.strip(), preset, int(context), name.strip())


def _start(model: str, preset: str, context: int, name: str) -> None:
    try:
        if not model:
            raise HeadscopeError("Model is empty; smollm2 is the one that comes along.")
        job = Scan(model=model, preset=preset, context=context)
        jobs.scan(store.root(), name or f"{slug(model)}-{preset}", job)
    except HeadscopeError as error:
        look.error(str(error))
        return
    st.rerun()
