"""Head maps as text: tables for a terminal, and a map of one character per head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headscope.app.looks import letters, number, phrase, title, with_error
from headscope.app.palette import hues
from headscope.app.roles import Entry, Role, roles_of
from headscope.app.scores import print_scores, ruler

if TYPE_CHECKING:
    from headscope.heads import Comparison, HeadMap


def print_map(console: Console, headmap: HeadMap, k: int) -> None:
    """The whole map: a character map, and one line per role."""
    roles = roles_of(headmap, k)
    console.print()
    if roles or not headmap.meta.columns:
        console.print(character_map(headmap, console.width))
        console.print()
        console.print(role_table(headmap, roles))
    else:
        print_scores(console, headmap, k)
    right = [f"{task} {share:.0%}" for task, share in headmap.meta.accuracy.items()]
    if right:
        console.print(f"Answered right: {', '.join(right)}", markup=False)


def role_table(headmap: HeadMap, roles: Sequence[Role]) -> Table:
    """One line per role: how many heads, the rule, the best heads with their errors."""
    table = plain_table(
        f"{headmap.meta.model}: {len(headmap.frame)} heads", " ", "role", "heads", "labelled where", "best"
    )
    table.columns[2].justify = "right"
    letter, hue = letters(headmap.roles), hues(headmap.roles)
    for role in roles:
        best = "\n".join(f"{e.name} {with_error(e.score, e.error)}" for e in role.best or role.top)
        style = hue[role.name].terminal
        table.add_row(
            Text(letter[role.name], style),
            Text(title(role.name), style),
            Text(str(role.count)),
            Text(str(role.rule)),
            Text(best or "–"),
        )
    return table


def top_table(headmap: HeadMap, name: str, entries: Sequence[Entry]) -> Table:
    """The top heads of one role or score."""
    is_role = name in headmap.roles
    score = headmap.rule(name).score if is_role else name
    info = headmap.meta.columns.get(score)
    says = f"{title(name)} heads {phrase(name, info.about if info else '')}" if is_role else name
    notes = list(entries[0].notes) if entries else []
    extra = ["label", *map(title, notes)] if is_role else []
    table = plain_table(says, "head", "KV head", score, "± s.e.", *extra)
    for i in (1, 2, 3):
        table.columns[i].justify = "right"
    for e in entries:
        more = ["yes" if e.labelled else "no", *(str(e.notes[n]) for n in notes)] if is_role else []
        cells = [e.name, str(e.kv_head), number(e.score), number(e.error), *more]
        table.add_row(*map(Text, cells), style="" if e.labelled or not is_role else "dim")
    if info:
        table.caption = Text(f"{score}: {info.about}. {info.source}")
        table.caption_justify = "left"
    return table


def character_map(headmap: HeadMap, width: int) -> Text:
    """One letter per head, that of its rarest role; layers from left to right, wrapped at `width`."""
    g = headmap.meta.geometry
    room = max(width - 6, 20)
    rare = sorted(headmap.roles, key=lambda r: int(headmap.frame[headmap.rule(r).column].sum()))
    letter, hue = letters(headmap.roles), hues(headmap.roles)
    labels = headmap.labels().set_index(["layer", "head"])
    text = Text()
    for start in range(0, g.layers, room):
        layers = range(start, min(start + room, g.layers))
        text.append(ruler(layers), "dim")
        for head in range(g.heads):
            if head and g.group_size > 1 and head % g.group_size == 0:
                text.append("\n")
            text.append(f"\n{head:>4}  ", "dim")
            for layer in layers:
                on = next((r for r in rare if labels.at[(layer, head), r]), None)
                text.append(letter[on] if on else "·", hue[on].terminal if on else "dim")
        text.append("\n" if layers.stop < g.layers else "")
    return text


def print_comparison(console: Console, a: HeadMap, b: HeadMap, found: Comparison) -> None:
    """Score by score, then label by label."""
    scores = plain_table(
        f"{a.meta.model} → {b.meta.model}", "score", "rank correlation", "mean change", "largest change"
    )
    for i in (1, 2, 3):
        scores.columns[i].justify = "right"
    for row in found.scores.to_dict("records"):
        values = (row["spearman"], row["mean_difference"], row["max_difference"])
        scores.add_row(Text(str(row["score"])), *(Text(number(float(v))) for v in values))
    console.print("The maps have no score in common." if found.scores.empty else scores)
    if found.labels.empty:
        console.print("No head changed its label.")
        return
    labels = plain_table(f"{len(found.labels)} labels changed", "role", "head", "before", "after")
    for row in found.labels.to_dict("records"):
        words = [
            f"{'yes' if row[when] else 'no'} ({number(float(row[f'score_{when}']))})"
            for when in ("before", "after")
        ]
        labels.add_row(
            Text(title(str(row["role"]))), Text(f"L{row['layer']}H{row['head']}"), *map(Text, words)
        )
    console.print(labels)


def print_inventory(console: Console, found: dict[str, list[dict[str, Any]]]) -> None:
    """What `headscope list` shows."""
    tasks = plain_table("Tasks", "name", "what it asks")
    for entry in found["tasks"]:
        tasks.add_row(Text(entry["name"]), Text(entry["summary"]))
    detectors = plain_table("Detectors", "name", "finds", "role", "labelled where")
    for entry in found["detectors"]:
        rules = entry["roles"] or [{"role": "–", "rule": "scores only"}]
        for i, rule in enumerate(rules):
            head = (entry["name"], entry["summary"]) if i == 0 else ("", "")
            detectors.add_row(*map(Text, (*head, rule["role"], rule["rule"])))
    changes = plain_table("Interventions", "name", "what it does", "strength", "settings")
    for entry in found["interventions"]:
        cells = (entry["name"], entry["summary"], f"{entry['strength']:g}", ", ".join(entry["settings"]))
        changes.add_row(*map(Text, cells))
    methods = plain_table("Circuit methods", "name", "what it does", "source")
    for entry in found["circuit_methods"]:
        methods.add_row(*(Text(entry[key] or "–") for key in ("name", "summary", "source")))
    presets = plain_table("Presets", "name", "about", "context", "prompts", "rows per prompt")
    for entry in found["presets"]:
        presets.add_row(*(Text(str(entry[key])) for key in ("name", "about", "context", "prompts", "sample")))
    formats = plain_table("Formats", "name", "what it is", "import", "export of")
    for entry in found["formats"]:
        ways = ("yes" if entry["imports"] else "no", ", ".join(entry["exports"]))
        formats.add_row(*map(Text, (entry["name"], entry["summary"], *ways)))
    console.print(tasks, detectors, changes, methods, presets, formats, sep="\n")


def print_models(console: Console, found: Sequence[dict[str, Any]]) -> None:
    """What `headscope models` shows."""
    table = plain_table("Models with a short name", "name", "installed", "where")
    for entry in found:
        table.add_row(entry["name"], "yes" if entry["installed"] else "no", Text(entry["where"]))
    console.print(table)
    console.print("Also: a hub id such as org/name, a folder of safetensors, or a .gguf file.")


def plain_table(name: str, *columns: str, fixed: int | None = None) -> Table:
    """An empty table in the look of all tables; columns from the one numbered `fixed` on stay whole."""
    table = Table(title=Text(name, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    whole = len(columns) if fixed is None else fixed
    for i, column in enumerate(columns):
        table.add_column(Text(column), overflow="fold", no_wrap=i >= whole)
    return table
