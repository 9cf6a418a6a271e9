"""The part of the intervention page that asks the model, without and with the intervention."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.beforeafter import BeforeAfter
from headscope.app.dashboard import address, live, look, pictured
from headscope.app.dashboard.look import plain
from headscope.app.dashboard.questions import Question, chosen_prompt
from headscope.app.fitcost import cost_of
from headscope.app.tokens import visible
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.app.wanted import Wanted
    from headscope.heads import Manifest
    from headscope.probes import Spec

_QUICK = 8  # passes
_SHORT = 400  # characters of a prompt that fits on a command line


def show(
    run: Run, manifest: Manifest | None, spec: Spec | None, wanted: Wanted | None, file: str, *,
    pictures: bool,
) -> None:  # fmt: skip
    """A prompt or a picture, and both answers.

    Args:
        run: whose prompts and pictures there are to choose from.
        manifest: which model to load; None where that is not known.
        spec: one that is held; else what `wanted` asks for is fitted, where that is quick.
        wanted: None where there is a spec, or where the form asks for nothing that can be had.
        file: where the spec is, or will be; empty for one that is in no file.
        pictures: whether the model is shown any.
    """
    what = "One question about a picture" if pictures else "One prompt"
    look.section("Before and after", f"{what}, greedily continued, without and with the intervention.")
    if manifest is None:
        look.note("This map was not made by a scan here, so it is not known which model to load.")
        return
    try:
        question = pictured.chosen(run) if pictures else chosen_prompt(run)
    except HeadscopeError as error:
        look.error(str(error))
        return
    if question is None or not (spec or wanted):
        return
    if wanted and not _quick(wanted):
        look.note(f"Fit it first: that takes more than {_QUICK} passes, so it is not done in passing.")
        return
    source = manifest.plan.model
    asked = (spec or wanted, question)
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(f"Run {plain(source)} with and without it", key="try", type="primary")
        again = address.switch(
            "Again on every change", "again", help="Once it has run, controls act as they are moved."
        )
    if pressed or (again and "tried" in st.session_state):
        st.session_state["tried"] = asked
    if st.session_state.get("tried") != asked:
        look.note("Nothing is run before you ask for it; the model is loaded the first time.")
        return
    try:
        with st.spinner("Running the model"):
            used = spec or live.fitted(source, manifest.plan.fingerprint, wanted)  # type: ignore[arg-type]
            found = live.answered(source, manifest.plan.fingerprint, used, question)
    except HeadscopeError as error:
        look.error(str(error))
        return
    _answers(found)
    if file and len(question.text) <= _SHORT:
        _command(source, file, question)


def _quick(wanted: Wanted) -> bool:
    """Whether fitting takes next to nothing, so that a control can act as it is moved."""
    return cost_of(wanted).passes <= _QUICK


def _answers(found: BeforeAfter) -> None:
    left, right = st.columns(2, gap="large")
    for column, name, text in (
        (left, "As it is", found.before),
        (right, "Under the intervention", found.after),
    ):
        with column:
            look.html(look.part("answer", heading=name, text=visible(text.strip(" "))))
    rows = [(visible(t.token), t.before, t.after) for t in found.tokens]
    look.html(look.part("next", rows=rows))
    look.note(f"The distribution of the next token moves by {found.kl:.3f} nats (KL divergence).")


def _command(source: str, file: str, question: Question) -> None:
    """The same two answers in a terminal."""
    picture = ["--image", question.file] if question.file else ["--plain"]
    length = ["--max-new-tokens", str(live.LENGTH[bool(question.pictures)])]
    words = ["headscope", "generate", source, question.text, *picture, *length, "--with", file]
    look.note("The same in a terminal:")
    st.code(shlex.join(words), language=None, wrap_lines=True)
