"""Taking a published head map in: the files of another program become a map in the runs folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.cli_scan import slug
from headscope.app.dashboard import jobs, look, shelf, store
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_UNKNOWN = "what the files say"


def form() -> None:
    """The form, and what comes of it."""
    from headscope.heads import FORMATS

    look.section(
        "Import a head map", "Heads that others have published, to show and compare like a scan of your own."
    )
    formats = {f.name: f.summary for f in FORMATS if f.read}
    with st.form("import", border=False):
        a, b, c, d = st.columns((2, 1.6, 2, 2))
        kind = a.selectbox("Format", list(formats), format_func=lambda n: f"{n}: {formats[n]}")
        model = b.text_input("Model", placeholder="as the files say")
        like = c.selectbox("Of the same shape as", [_UNKNOWN, *shelf.maps(store.root())])
        name = d.text_input("Name of the map", placeholder="made of the model")
        files = st.file_uploader("Files", accept_multiple_files=True, help="All files of one head map.")
        sent = st.form_submit_button("Import")
    if sent:
        try:
            made = take_in(files or [], str(kind), model.strip(), like, name.strip())
        except HeadscopeError as error:
            look.error(str(error))
        else:
            st.session_state["imported"] = made
            st.rerun()
    if "imported" in st.session_state:
        look.note(f"Imported as {st.session_state.pop('imported')}.")


def take_in(files: Sequence[Any], kind: str, model: str, like: str, name: str) -> str:
    """Import uploaded files; the name of the map in the runs folder.

    Raises:
        HeadscopeError: no files, a name that is taken or no plain name, or files of another kind.
    """
    from headscope.heads import Known, import_map

    if not files:
        raise HeadscopeError("Choose the files of a head map first.")
    shape = None
    if like != _UNKNOWN:
        shape = store.headmap(shelf.find(store.root(), like)).meta.geometry
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            (Path(folder) / Path(file.name).name).write_bytes(file.getvalue())
        where = Path(folder) if len(files) > 1 else Path(folder) / Path(files[0].name).name
        known = Known(model=model or (Path(files[0].name).stem if len(files) == 1 else ""), like=shape)
        headmap = import_map(where, kind, known)
    stem = jobs.checked_name(name or f"{slug(headmap.meta.model)}-{kind}")
    target = store.root() / f"{stem}.parquet"
    if target.exists() or target.is_symlink():
        raise HeadscopeError(f"The name {stem!r} is taken; choose another.")
    headmap.save(target)
    return target.name
