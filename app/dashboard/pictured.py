"""Pictures to ask about: those of the run's own evidence, and those that a user brings along.

A picture that is brought along is read once, as every picture is, and its pixels alone are kept, in the
run folder: its address then shows it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import address, look, store
from headscope.app.dashboard.questions import Question
from headscope.probes import HeadscopeError, Picture, write_atomically

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run

_FOLDER = "pictures"  # in the run folder
_KINDS = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm"]
_ASK = "What is in the picture?"
_SIDE = 300  # pixels of what is shown


def chosen(run: Run) -> Question | None:
    """A picture and a question about it; None while there is no picture."""
    asked, kept = store.scenes(run), store.pictures(run, _FOLDER)
    show, ask = st.columns((1, 2.2), gap="large")
    with ask:
        _upload(run)
        names = [*asked, *(name for name in kept if name not in asked)]
        if not names:
            look.note("This run kept no picture; choose one of your own.")
            return None
        numbers = {name: i + 1 for i, name in enumerate(names)}
        name = address.choose(
            "Picture", "picture", names, names[0],
            say=lambda n: f"{'scene' if n in asked else 'your picture'} {numbers[n]}",
        )  # fmt: skip
        file, about = asked.get(name, (kept.get(name), ""))
        text = address.words("Question", "ask", about or next((a for _, a in asked.values()), _ASK))
    assert file is not None
    picture = store.picture(file)
    with show:
        st.image(picture.image, width=_SIDE, alt=f"The picture {name} that is asked about.")
        look.note(f"{picture.width} × {picture.height} pixels, {name}")
    return Question(text, (picture,), str(file))


def _upload(run: Run) -> None:
    """Take a picture in, or say why not; then the box is empty again, so that another can be chosen."""
    visits = st.session_state.get("uploads", 0)
    sent = st.file_uploader("A picture of your own", type=_KINDS, key=f"upload-{visits}")
    if "refused" in st.session_state:
        look.error(st.session_state.pop("refused"))
    if sent is None:
        return
    try:
        address.put(picture=take_in(run.path, sent.name, sent.getvalue()))
    except HeadscopeError as error:
        st.session_state["refused"] = str(error)
    st.session_state["uploads"] = visits + 1
    st.rerun()


def take_in(run: Path, name: str, content: bytes) -> str:
    """Keep a picture in a run folder, as PNG; the name it has from its pixels.

    Raises:
        BadFile: no picture, or a damaged one.
        HeadscopeError: too many pixels.
    """
    picture = Picture.decoded(content, f"The picture {name!r}")
    write_atomically(run / _FOLDER / f"{picture.digest}.png", lambda path: path.write_bytes(picture.png))
    return picture.digest
