"""The form that makes an intervention: the words of `headscope intervene`, which stand in the address."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import streamlit as st

from headscope.app.dashboard import address, look
from headscope.app.methodoptions import Option, chooses_heads, options_of
from headscope.app.wanted import POSITIONS, Learning, Wanted
from headscope.probes import INTERVENTIONS, TASKS, HeadId, HeadscopeError

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap
    from headscope.probes import Positions

_NAMED, _ROLE, _OWN = "named", "role", "method"
_SAYS = {_NAMED: "named", _ROLE: "best of the run", _OWN: "method's choice"}
# What the method was made for, where that is not the command line's default: task, rows.
_STARTS = {"ph3": ("conflict", "generated"), "vhr": ("scenes", "generated"), "var": ("scenes", "all")}
_BY_PROMPT = {"vhr"}  # decide anew for every prompt, and so learn from none
_SEEING = {"var", "vhr"}
_STRENGTH = (
    "1 leaves heads as they are, 0 makes the whole change, 2 the opposite one; for scale and vhr, the factor."
)


def form(run: Run, headmap: HeadMap) -> Wanted:
    """The controls, and what they ask for.

    Raises:
        HeadscopeError: heads that are none; see `HeadId.parse`.
    """
    methods = {entry.name: entry for entry in INTERVENTIONS}
    a, b, c, d = st.columns((1, 2.3, 1.7, 1.2), vertical_alignment="bottom", gap="medium")
    with a:
        name = address.choose("Method", "method", list(methods), "zero")
    method = methods[name]
    task, rows = _STARTS.get(name, (Learning().task, "all"))
    with b:
        ways = [_NAMED] + [_ROLE] * bool(headmap.meta.columns) + [_OWN] * chooses_heads(method)
        way = address.choose(
            "Heads", "by", ways, _OWN if _OWN in ways else _NAMED, say=_SAYS.__getitem__, buttons=True
        )
    with c:
        positions = address.choose(
            "Positions", "positions", POSITIONS, rows, buttons=True,
            help="Which rows are changed: generated ones begin with the last of the prompt.",
        )  # fmt: skip
    with d:
        strength = address.slide(
            "Kept of the original", "kept", -1.0, 4.0, method.strength, step=0.05, form="%.2f", help=_STRENGTH
        )
    blind = name in _SEEING and not shows_pictures(headmap)
    needs = " It needs a model that sees, and this scan showed its model no pictures." if blind else ""
    look.note(f"{name}: {method.summary}.{needs}")
    line, heads, role, top, learning = "", None, "", 0, Learning()
    if way == _NAMED:
        line = address.words("Heads to act on", "heads", _best(headmap), help="L18H6, L23H2, …")
    elif way == _ROLE:
        heads, role, top = _ranked(headmap)
    else:
        learning = Learning(task) if name in _BY_PROMPT else _learning(headmap, task)
    settings = _settings(options_of(method))
    if way == _NAMED:  # last, so that everything is drawn before a name that is none is refused
        heads = _named(line)
    return Wanted(
        name,
        heads,
        strength,
        cast("Positions", positions),
        settings,
        learning,
        str(run.path) if role else "",
        role,
        top,
    )


def best_heads(headmap: HeadMap, column: str, k: int) -> tuple[HeadId, ...]:
    """The heads with the highest scores."""
    best = headmap.top(column, k)
    return tuple(HeadId(int(a), int(b)) for a, b in zip(best["layer"], best["head"], strict=True))


def _best(headmap: HeadMap, k: int = 5) -> str:
    """The best heads of the first role that copies, or of whatever comes first."""
    columns = [
        *(["retrieval"] if "retrieval" in headmap.roles else []),
        *headmap.roles,
        *headmap.meta.columns,
    ]
    return ", ".join(map(str, best_heads(headmap, columns[0], k))) if columns else ""


def _named(line: str) -> tuple[HeadId, ...]:
    """The heads of a line such as `L18H6, L23H2`."""
    return tuple(HeadId.parse(head) for head in re.split(r"[\s,;]+", line) if head)


def _ranked(headmap: HeadMap) -> tuple[tuple[HeadId, ...], str, int]:
    """The best heads of a role or score, that, and how many."""
    a, b = st.columns((3, 1), vertical_alignment="bottom", gap="medium")
    columns = [*headmap.roles, *(c for c in headmap.meta.columns if c not in headmap.roles)]
    with a:
        role = address.choose(
            "Role or score", "role", columns, "retrieval" if "retrieval" in columns else columns[0]
        )
    with b:
        top = address.count("How many", "top", 10, 1, len(headmap.frame))
    heads = best_heads(headmap, role, top)
    look.note(f"{', '.join(map(str, heads[:20]))}{' …' if len(heads) > 20 else ''}")
    return heads, role, top


def _learning(headmap: HeadMap, task: str) -> Learning:
    """The prompts that the method finds its heads on."""
    usual = Learning()
    a, b, c, d = st.columns((2, 1, 1, 1), vertical_alignment="bottom", gap="medium")
    seeing = shows_pictures(headmap)
    tasks = [t.name for t in TASKS if seeing or not getattr(t, "pictures", False)]
    with a:
        chosen = address.choose(
            "Learns from the task",
            "task",
            tasks,
            task if task in tasks else usual.task,
            help=_about(address.asked("task") or task),
        )
    with b:
        count = address.amount("Prompts", "learn", usual.count, whole=True, help="How many to learn from.")
    with c:
        length = address.amount(
            "Tokens of each",
            "length",
            usual.length,
            whole=True,
            help="Tasks of short prompts take it as an upper bound.",
        )
    with d:
        seed = address.amount(
            "Seed", "seed", usual.seed, whole=True, help="Everything random follows from it."
        )
    return Learning(chosen, int(length), int(count), int(seed))


def shows_pictures(headmap: HeadMap) -> bool:
    """Whether the scan showed pictures to the model."""
    known = {t.name for t in TASKS if getattr(t, "pictures", False)}
    return bool(known & set(headmap.meta.tasks))


def _about(task: str) -> str:
    try:
        return TASKS[task].summary
    except HeadscopeError:
        return ""


def _settings(options: list[Option]) -> tuple[tuple[str, Any], ...]:
    """The method's own numbers, those that are not as they usually are."""
    found = []
    for row in range(0, len(options), 4):
        for column, option in zip(
            st.columns(4, vertical_alignment="bottom", gap="medium"), options[row : row + 4], strict=False
        ):
            with column:
                value = _control(option)
            if value != option.default:
                found.append((option.name, value))
    return tuple(found)


def _control(option: Option) -> Any:
    label, name, help = option.name.replace("_", " ").capitalize(), f"set.{option.name}", option.help
    if option.kind == "switch":
        return address.switch(label, name, option.default, help=help)
    if option.kind == "choice":
        return address.choose(label, name, option.choices, option.default, help=help)
    if option.kind == "wholes":
        line = address.words(label, name, " ".join(map(str, option.default)), help=help)
        return tuple(int(w) if w.isdecimal() else w for w in re.split(r"[\s,;]+", line) if w)
    whole = option.kind == "whole"
    return address.amount(label, name, option.default, whole=whole, help=help)
