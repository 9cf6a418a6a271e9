"""The part of the policy studio about what was measured: certificates and sweeps, or how to get them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import look
from headscope.app.policyview import certified
from headscope.app.sweep import sweep_curve, sweep_section

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import Policy


def certificate(run: Run, policy: Policy, saved: dict[str, Policy]) -> None:
    """What was measured, for this very policy or another that keeps the same."""
    same = [p for p in (policy, *saved.values()) if p.certificate and p.retain == policy.retain]
    look.section("Certified quality")
    if not same or same[0].certificate is None:
        file = str(run.path / "policy.json")
        look.empty(
            "Not measured yet",
            "What stands above is an estimate from the scan. A policy file in the run folder is shown here, "
            "with its certificate once it has one.",
            f"{_chosen(run, policy, file)}\n{shlex.join(['headscope', 'verify', file, policy.model])}",
        )
        return
    found = same[0].certificate
    look.note(f"Measured {found.made} on {found.device}, {found.dtype}; 95% intervals.")
    headers = ["", "full attention", "policy", "difference"]
    look.html(look.part("table", headers=headers, rows=certified(found)))


def _chosen(run: Run, policy: Policy, file: str) -> str:
    """The command line that chooses this policy."""
    ratio = policy.full_share if policy.origin.ratio is None else policy.origin.ratio
    words = [
        "headscope",
        "policy",
        "choose",
        str(run.path),
        "--ratio",
        f"{ratio:g}",
        "--by",
        policy.origin.by,
    ]
    window = next((span for row in policy.retain for span in row if span is not None), None)
    for name, value, usual in (
        ("sink", window and window.sink, 64),
        ("recent", window and window.recent, 256),
    ):
        words += [f"--{name}", str(value)] if value not in (None, usual) else []
    groups = [[span for span in row for _ in range(policy.geometry.group_size)] for row in policy.retain]
    words += ["--compute", "head"] if [list(row) for row in policy.compute] != groups else []
    return shlex.join([*words, "--out", file])


def sweep(run: Run) -> None:
    """Measured quality against memory, for several rankings."""
    found = sweep_section(run.folder)
    look.section("Quality against memory", found.about if found else "")
    if found is None:
        look.note(f"Not measured yet; headscope sweep {shlex.quote(str(run.path))} does it.")
        return
    from headscope.heads import Sweep

    figure = sweep_curve(Sweep.open(run.path), theme=look.theme())
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.14, "x": 0})
    st.plotly_chart(
        figure, theme=None, key="sweep", config={"displayModeBar": False},
        alt="Share of right answers kept over retained KV bytes, by ranking.",
    )  # fmt: skip
    with st.expander("All numbers, with their intervals"):
        look.html(look.part("table", headers=found.headers, rows=found.rows))
