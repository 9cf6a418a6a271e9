"""The policy studio: how much stays, which groups stay, what that costs, and files for the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from headscope.app import policyfigures
from headscope.app.dashboard import address, exports, held, look, quality, store
from headscope.app.policyview import facts
from headscope.app.tables_policy import disagreement
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap, Policy

_HERE, _RATIO = "made here", 0.25
_LENGTHS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)


def show() -> None:
    """Draw the page."""
    left, right = st.columns((3, 1), vertical_alignment="bottom")
    with right:
        run = store.chosen_run()
    headmap = store.headmap(run)
    look.install(headmap)
    with left:
        look.heading(
            "Policy studio",
            eyebrow=f"{headmap.meta.model}: which KV groups keep every key, and what that saves",
        )
    saved = held.policies(run)
    chosen = _HERE
    if saved:
        chosen = address.choose("Policy", "policy", [_HERE, *saved], _HERE)
    policy, length = _made(run, headmap) if chosen == _HERE else (saved[chosen], _length(headmap))
    look.html(look.part("facts", facts=facts(policy, headmap, length)))
    st.plotly_chart(
        policyfigures.policy_map(policy, theme=look.theme()), theme=None, key="policy-map",
        config={"displayModeBar": False},
        alt=f"Map of the policy: {policy.full_share:.0%} of the KV groups keep everything.",
    )  # fmt: skip
    look.note(
        "Strong: reads everything. Half: its group keeps everything for another head. Faint: the first and "
        "the most recent keys alone."
    )
    quality.certificate(run, policy, saved)
    quality.sweep(run)
    _disagreement(run, headmap)
    exports.download(headmap, policy)


def _length(headmap: HeadMap) -> int:
    """At how many tokens bytes are counted: the model's context, unless the address says otherwise."""
    context = headmap.meta.geometry.context or 8192
    default = next((n for n in _LENGTHS if n >= context), _LENGTHS[-1])
    names = [str(n) for n in _LENGTHS]
    return int(
        address.choose("Bytes at", "bytes_at", names, str(default), say=lambda n: f"{int(n):,} tokens")
    )


def _made(run: Run, headmap: HeadMap) -> tuple[Policy, int]:
    """The policy that the controls describe, and the length to count bytes at."""
    rankings = _rankings(headmap)
    columns = st.columns((2.4, 1.2, 0.9, 0.9, 1.3), vertical_alignment="bottom", gap="medium")
    with columns[0]:
        what = "Share of KV groups that keep everything"
        ratio = address.slide(what, "ratio", 0.0, 1.0, _RATIO, step=0.01, form="%.2f")
    with columns[1]:
        by = address.choose("Ranked by", "by", [*rankings, "random"], (rankings or ["random"])[0])
    with columns[2]:
        sink = address.count("First keys", "sink", 64, 0, 4096)
    with columns[3]:
        recent = address.count("Recent keys", "recent", 256, 1, 65536)
    with columns[4]:
        length = _length(headmap)
    fine = by == "error" and address.switch("Let single heads of full groups stream too", "fine")
    return _policy(store.version(run), headmap, ratio, by, sink, recent, "head" if fine else "group"), length


def _rankings(headmap: HeadMap) -> list[str]:
    """The rankings that this map has the columns for."""
    from headscope.heads import RANKINGS, rank

    found = []
    for name in RANKINGS:
        try:
            rank(headmap, name)
        except HeadscopeError:
            continue
        found.append(name)
    return found


@st.cache_resource(max_entries=64, show_spinner=False)
def _policy(
    version: store.Stamp, _headmap: HeadMap, ratio: float, by: str, sink: int, recent: int, compute: str
) -> Policy:
    found: Policy = _headmap.policy(ratio=ratio, by=by, sink=sink, recent=recent, compute=compute)
    return found


def _disagreement(run: Run, headmap: HeadMap) -> None:
    rankings = _rankings(headmap)
    if len(rankings) < 2:
        return
    look.section("Where methods disagree", "Every ranking, at the same share of KV groups.")
    ratio = min(max(address.number("ratio", _RATIO), 0.0), 1.0)
    policies = {by: _policy(store.version(run), headmap, ratio, by, 64, 256, "group") for by in rankings}
    chart, table = st.columns((2, 1), gap="large")
    with chart:
        st.plotly_chart(
            policyfigures.vote_map(policies, theme=look.theme()), theme=None, key="votes",
            config={"displayModeBar": False}, alt=f"How many of {len(policies)} rankings keep each KV group.",
        )  # fmt: skip
    with table:
        headers = ["", "", "alike", "overlap of full ones"]
        look.html(look.part("table", headers=headers, rows=disagreement(policies)[0]))
