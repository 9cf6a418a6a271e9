"""What `headscope prove` has found out about a run's roles."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import look
from headscope.app.headview import scores_of
from headscope.app.looks import story, title, with_error
from headscope.app.proof import proof_curve, proof_section

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap, Proof


def show(run: Run, headmap: HeadMap) -> None:
    """Curves and numbers, or the command that makes them."""
    found = proof_section(headmap, run.folder)
    look.section("Roles put to the test", found.about if found else "")
    if found is None:
        look.empty(
            "No role of this run has been tested yet",
            "The test ablates a role's best heads together, and as many random heads of the same layers.",
            f"headscope prove {shlex.quote(str(run.path))}",
        )
        return
    from headscope.heads import Proof

    proof = Proof.open(run.path)
    roles = story(list(dict.fromkeys(proof.curves["role"])))
    for row in range(0, len(roles), 3):
        for column, role in zip(st.columns(3, gap="medium"), roles[row : row + 3], strict=False):
            with column:
                _curve(proof, headmap, role)
    with st.expander("All numbers, with their intervals"):
        look.html(look.part("table", headers=found.headers, rows=found.rows))


def alone(run: Run, headmap: HeadMap, layer: int, head: int) -> None:
    """What one head is worth by itself, or the command that finds out."""
    info = headmap.meta.columns.get("causal")
    look.section("Causal effect", info.about if info else "")
    if info is None:
        look.note(f"Not measured yet; headscope prove {shlex.quote(str(run.path))} does it.")
        return
    score = next(s for s in scores_of(headmap, layer, head) if s.name == "causal")
    place = f", {score.rank} of {score.of} heads" if score.rank else ""
    look.note(f"{with_error(score.value, score.error)} on {info.prompts} {info.tasks[0]} prompts{place}.")


def _curve(proof: Proof, headmap: HeadMap, role: str) -> None:
    look.html(look.part("measure", title=title(role), about="answers still right; dotted: random heads"))
    st.plotly_chart(
        proof_curve(proof, role, headmap=headmap, theme=look.theme()), theme=None, key=f"proof-{role}",
        config={"displayModeBar": False},
        alt=f"Share of answers still right over the number of ablated {title(role)} heads.",
    )  # fmt: skip
