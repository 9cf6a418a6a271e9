"""The policy studio: how much stays, which groups stay, what that costs, and files for the server."""

from __future__ import annotations

import io
import shlex
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app import policyfigures
from headscope.app.dashboard import address, held, look, store
from headscope.app.policyview import certified, facts
from headscope.app.sweep import sweep_curve, sweep_section
from headscope.app.tables_policy import disagreement
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import Exported, HeadMap, Policy

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
    _certificate(run, policy, saved)
    _sweep(run)
    _disagreement(run, headmap)
    _download(headmap, policy)


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


def _certificate(run: Run, policy: Policy, saved: dict[str, Policy]) -> None:
    """What was measured, for this very policy or another that keeps the same."""
    same = [p for p in (policy, *saved.values()) if p.certificate and p.retain == policy.retain]
    look.section("Certified quality")
    if not same or same[0].certificate is None:
        o, file = policy.origin, shlex.quote(str(run.path / "policy.json"))
        look.empty(
            "Not measured yet",
            "What stands above is an estimate from the scan. A policy file in the run folder is shown here, "
            "with its certificate once it has one.",
            f"headscope policy choose {shlex.quote(str(run.path))} --ratio {o.ratio or _RATIO:g} "
            f"--by {o.by} --out {file}\nheadscope verify {file} {shlex.quote(policy.model)}",
        )
        return
    certificate = same[0].certificate
    look.note(f"Measured {certificate.made} on {certificate.device}, {certificate.dtype}; 95% intervals.")
    headers = ["", "full attention", "policy", "difference"]
    look.html(look.part("table", headers=headers, rows=certified(certificate)))


def _sweep(run: Run) -> None:
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


def _download(headmap: HeadMap, policy: Policy) -> None:
    from headscope.heads import FORMATS

    look.section(
        "For the server", "A file in the format that your serving program reads, and what it cannot hold."
    )
    names = [f.name for f in FORMATS if f.from_policy or f.from_map]
    about = {f.name: f.summary for f in FORMATS}
    name = address.choose("Format", "format", names, "headscope", say=lambda n: f"{n}: {about[n]}")
    source = policy if FORMATS[name].from_policy else headmap
    try:
        made, data, suffix, where = _export(source, name)
    except HeadscopeError as error:
        look.error(str(error))
        return
    kind = "application/zip" if suffix == ".zip" else "application/octet-stream"
    st.download_button(
        "Download", data, file_name=f"{name}{suffix}", mime=kind, key="download", type="primary",
        on_click="ignore",
    )  # fmt: skip
    for loss in made.losses:
        look.note(f"Lost: {loss}")
    st.code(
        made.usage.replace(str(where), f"{name}{suffix.removesuffix('.zip')}"), language=None, wrap_lines=True
    )


def _export(source: HeadMap | Policy, name: str) -> tuple[Exported, bytes, str, Path]:
    """An export, its bytes, how its file name ends, and where it was written before it was read.

    Several files come as one archive.
    """
    from headscope.heads import export

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / name
        made = export(source, name, target)
        if target.is_file():
            return made, target.read_bytes(), _suffix(target.read_text(encoding="utf-8")), target
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(target.iterdir()):
                archive.write(file, f"{name}/{file.name}")
        return made, packed.getvalue(), ".zip", target


def _suffix(text: str) -> str:
    """How a file of this content is usually called."""
    if text[:1] in ("{", "["):
        return ".json"
    return ".yaml" if ": " in text.split("\n", 1)[0] else ".txt"
