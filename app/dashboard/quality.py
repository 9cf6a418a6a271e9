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
        o, file = policy.origin, shlex.quote(str(run.path / "policy.json"))
        look.empty(
            "Not measured yet",
            "What stands above is an estimate from the scan. A policy file in the run folder is shown here, "
            "with its certificate once it has one.",
            f"headscope policy choose {shlex.quote(str(run.path))} --ratio {o.ratio or policy.full_share:g} "
            f"--by {o.by} --out {file}\nheadscope verify {file} {shlex.quote(policy.model)}",
        )
        return
    found = same[0].certificate
    look.note(f"Measured {found.made} on {found.device}, {found.dtype}; 95% intervals.")
    headers = ["", "full attention", "policy", "difference"]
    look.html(look.part("table", headers=headers, rows=certified(found)))


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
