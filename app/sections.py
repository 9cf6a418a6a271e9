"""What the report says, section by section; the template only lays it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from headscope.app import figures
from headscope.app.charts import Chart, chart, script_json
from headscope.app.circuitsection import CircuitSection, circuit_sections
from headscope.app.examples import Example, examples
from headscope.app.labelmap import common, label_map, theme_variables
from headscope.app.layers import LayerSection, layer_section
from headscope.app.looks import number, phrase, title
from headscope.app.machine import plain
from headscope.app.palette import NEUTRAL, ramp
from headscope.app.pictures import Looked, looked
from headscope.app.proof import ProofSection, proof_section
from headscope.app.provenance import Provenance, provenance
from headscope.app.roles import Entry, Role, roles_of
from headscope.app.sweep import SweepSection, sweep_section
from headscope.app.training import TrainingSection, training_section

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import HeadMap, ShownPrompt, Training

_TOP, _SHOWN = 10, 3  # heads listed per role; heads with an example


@dataclass(frozen=True)
class RoleSection:
    """Everything about one role."""

    role: Role
    title: str
    phrase: str
    chart: Chart
    examples: list[tuple[Entry, list[Example]]]
    notes: list[str]


@dataclass(frozen=True)
class KindSection:
    """Chosen heads on every kind of text."""

    charts: list[tuple[str, Chart]]


@dataclass(frozen=True)
class Page:
    """The whole report."""

    headmap: HeadMap
    roles: list[RoleSection]
    unlabelled: int
    headline: str
    common: list[str]
    map: Markup
    light: Markup
    dark: Markup
    pictures: list[Looked]
    training: TrainingSection | None
    proof: ProofSection | None
    sweep: SweepSection | None
    circuits: list[CircuitSection]
    layers: LayerSection | None
    kinds: KindSection | None
    explore: Chart
    table: Markup
    provenance: Provenance


def page(headmap: HeadMap, folder: Path | None, training: Training | None = None) -> Page:
    """Gather the content of a report; that of a training is its last checkpoint's, and more."""
    prompts, rows = _evidence(folder)
    found = roles_of(headmap, _TOP)
    labels = headmap.frame[[headmap.rule(r).column for r in headmap.roles]].astype(bool)
    return Page(
        headmap=headmap,
        roles=[_role_section(headmap, role, prompts, rows) for role in found],
        unlabelled=int((~labels.any(axis=1)).sum()) if headmap.roles else len(headmap.frame),
        headline=_headline(found),
        common=common(headmap),
        map=label_map(headmap),
        light=theme_variables(headmap.roles, "light"),
        dark=theme_variables(headmap.roles, "dark"),
        pictures=looked(folder, found, prompts),
        training=training_section(training),
        proof=proof_section(headmap, folder),
        sweep=sweep_section(folder),
        circuits=circuit_sections(headmap, folder),
        layers=layer_section(folder),
        kinds=_kind_section(headmap),
        explore=_explore(headmap),
        table=_table(headmap),
        provenance=provenance(headmap, folder),
    )


def _headline(roles: list[Role]) -> str:
    """The first role of the story and the most common one, in words."""
    found = [r for r in roles if r.count]
    most = max(found, key=lambda r: r.count, default=None)
    shown = [r for r in found if r is found[0] or r is most]
    words = (f"{r.count} {phrase(r.name, r.info.about if r.info else '')}" for r in shown)
    return ", ".join(words)


def _evidence(folder: Path | None) -> tuple[tuple[ShownPrompt, ...], pd.DataFrame | None]:
    if folder is None or not (folder / "evidence" / "prompts.json").exists():
        return (), None
    from headscope.heads import read_evidence

    return read_evidence(folder / "evidence")


def _role_section(
    headmap: HeadMap, role: Role, prompts: tuple[ShownPrompt, ...], rows: pd.DataFrame | None
) -> RoleSection:
    score = role.rule.score
    best = f"; highest at {role.top[0].name} with {number(role.top[0].score)}" if role.top else ""
    g = headmap.meta.geometry
    alt = (
        f"Heat map of {score} over {g.layers} layers and {g.heads} heads{best}; "
        f"{role.count} heads are outlined as {title(role.name)}."
    )
    shown = [e for e in role.top if e.labelled][:_SHOWN] or list(role.top[:1])
    return RoleSection(
        role=role,
        title=title(role.name),
        phrase=phrase(role.name, role.info.about if role.info else ""),
        chart=chart(
            f"map-{role.name}",
            alt,
            lambda theme: figures.score_map(headmap, score, role=role.name, theme=theme),
        ),
        examples=[]
        if rows is None
        else [
            (e, found)
            for e in shown
            if (found := examples(headmap, role.name, (e.layer, e.head), prompts, rows))
        ],
        notes=list(role.top[0].notes) if role.top else [],
    )


KINDS = {
    "sink_mass_": "Attention on the first token",
    "activity_": "What the head adds, over what one ordinary value would add",
}


def _kind_section(headmap: HeadMap) -> KindSection | None:
    """What exists once per kind of text, for the heads in which sink mass differs most."""
    role = "active_dormant"
    prefixes = [p for p in KINDS if any(c.startswith(p) for c in headmap.meta.columns)]
    if role not in headmap.roles or not prefixes:
        return None
    heads = sleepers(headmap, role)
    return KindSection([(KINDS[p], _kind_chart(headmap, p, heads, role)) for p in prefixes])


def sleepers(headmap: HeadMap, role: str) -> list[tuple[int, int]]:
    """The heads worth showing on every kind of text: the best with the label, or the nearest to it."""
    best = headmap.top(role, len(headmap.frame))
    labelled = best[best[headmap.rule(role).column].astype(bool)]
    chosen = labelled.head(20) if len(labelled) else best.head(8)
    return [(int(a), int(b)) for a, b in zip(chosen["layer"], chosen["head"], strict=True)]


def _kind_chart(headmap: HeadMap, prefix: str, heads: list[tuple[int, int]], role: str) -> Chart:
    alt = f"{KINDS[prefix]} for {len(heads)} heads on every kind of text."
    return chart(
        f"kinds-{prefix.strip('_')}", alt,
        lambda theme: figures.kind_map(headmap, prefix, heads, role=role, theme=theme),
    )  # fmt: skip


def _explore(headmap: HeadMap) -> Chart:
    first = next(iter(headmap.meta.columns), "kv_head")
    return chart(
        "explore-map",
        f"Heat map of {first}.",
        lambda theme: figures.score_map(headmap, first, theme=theme),
    )


def _table(headmap: HeadMap) -> Markup:
    """The whole head map for the page's script: exact numbers, column by column."""
    meta = headmap.meta
    content: dict[str, Any] = {
        "columns": {str(name): plain(headmap.frame[name].tolist()) for name in headmap.frame.columns},
        "about": {name: info.about for name, info in meta.columns.items()},
        "roles": [
            {"role": r.role, "title": title(r.role), "column": r.column, "rule": str(r)} for r in meta.rules
        ],
        "layers": meta.geometry.layers,
        "heads": meta.geometry.heads,
        "ramps": {
            theme: {"up": ramp(NEUTRAL, theme), "signed": ramp(NEUTRAL, theme, diverging=True)}
            for theme in ("light", "dark")
        },
    }
    return script_json(content)
