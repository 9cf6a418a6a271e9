"""Real examples: for one head and one role, the row of the evidence that shows it best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headscope.app.looks import title
from headscope.app.tokens import Piece, strip, visible

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import HeadMap, ShownPrompt

_LEAST, _MOST = 0.03, 5  # keys with less mass, and more keys than this, are not worth a highlight

# Whether a key is what the role looks for: prompt, query row, keys -> one truth value per key.
Focus = Callable[["ShownPrompt", int, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Example:
    """One row of attention.

    Attributes:
        heading: what it shows, if there is something to say.
        task: the kind of prompt.
        length: tokens of the prompt.
        query: the query token, visible.
        position: its position.
        next: the token that follows it, visible; empty at the end.
        best: the heaviest key, visible.
        best_position: where it stands.
        best_mass: the mass on it.
        pieces: the strip.
    """

    heading: str
    task: str
    length: int
    query: str
    position: int
    next: str
    best: str
    best_position: int
    best_mass: float
    pieces: tuple[Piece, ...]


def _same(prompt: ShownPrompt, row: int, keys: np.ndarray) -> np.ndarray:
    return np.array([k != row and prompt.tokens[k] == prompt.tokens[row] for k in keys])


def _after_same(prompt: ShownPrompt, row: int, keys: np.ndarray) -> np.ndarray:
    return np.array([k > 0 and k <= row and prompt.tokens[k - 1] == prompt.tokens[row] for k in keys])


def _value(prompt: ShownPrompt, row: int, keys: np.ndarray) -> np.ndarray:
    start, stop = prompt.spans.get("value") or prompt.spans.get("needle") or (0, 0)
    return (keys >= start) & (keys < stop)


_FOCUS: dict[str, Focus] = {
    "retrieval": _value,
    "induction": _after_same,
    "echo": _same,
    "previous_token": lambda prompt, row, keys: keys == row - 1,
    "sink": lambda prompt, row, keys: keys == 0,
    "hidden_sink": lambda prompt, row, keys: keys >= 4,
}


def _any(prompt: ShownPrompt, row: int, keys: np.ndarray) -> np.ndarray:
    return np.ones(len(keys), bool)


def examples(
    headmap: HeadMap,
    role: str,
    head: tuple[int, int],
    prompts: Sequence[ShownPrompt],
    rows: pd.DataFrame,
) -> list[Example]:
    """The clearest rows of one head: one, or two for a role that sleeps and wakes.

    Args:
        headmap: the map.
        role: what to look for; roles that are not known show their heaviest key.
        head: layer and head.
        prompts, rows: from `read_evidence`.
    """
    mine = rows[(rows["layer"] == head[0]) & (rows["head"] == head[1])]
    if role == "active_dormant":
        return _asleep_and_awake(headmap, head, prompts, mine)
    info = headmap.meta.columns.get(headmap.rule(role).score)
    usable = _of_tasks(prompts, info.tasks if info else ())
    found = _clearest(usable, mine, _FOCUS.get(role, _any))
    return [found] if found else []


def clearest_row(prompt: ShownPrompt, mine: pd.DataFrame) -> int | None:
    """The query row of a prompt that shows best what one head does on its kind of text.

    Where an answer is written, the row with the most mass on what is asked for; on repeated
    text, on what followed last time; elsewhere, on anything but the first token.
    """
    away: Focus = lambda prompt, row, keys: keys > 0  # noqa: E731
    focus = _value if prompt.answer else _after_same if prompt.kind == "repeated" else away
    found = _clearest([prompt], mine, focus)
    return found.position if found else None


def _of_tasks(prompts: Sequence[ShownPrompt], tasks: Sequence[str]) -> list[ShownPrompt]:
    """Prompts the score was read from, those answered right if there are any; all as a last resort."""
    read = [p for p in prompts if p.task in tasks or p.kind in tasks] or list(prompts)
    return [p for p in read if p.right] or read


def _asleep_and_awake(
    headmap: HeadMap, head: tuple[int, int], prompts: Sequence[ShownPrompt], mine: pd.DataFrame
) -> list[Example]:
    prefix = "sink_mass_"
    kinds = [c.removeprefix(prefix) for c in headmap.meta.columns if c.startswith(prefix)]
    at = (headmap.frame["layer"] == head[0]) & (headmap.frame["head"] == head[1])
    scores = headmap.frame[at].iloc[0]
    ordered = sorted(kinds, key=lambda kind: -float(scores[prefix + kind]))
    if not ordered:
        return []
    awake: Focus = lambda prompt, row, keys: keys > 0  # noqa: E731
    plan = ((ordered[0], _FOCUS["sink"], "most asleep on"), (ordered[-1], awake, "most awake on"))
    found = (
        _clearest(
            [p for p in prompts if kind in (p.kind, p.task)],
            mine,
            focus,
            f"{text} {title(kind)} text",
        )
        for kind, focus, text in plan
    )
    return [example for example in found if example]


def _clearest(
    prompts: Sequence[ShownPrompt], mine: pd.DataFrame, focus: Focus, heading: str = ""
) -> Example | None:
    """The row with the most mass on what the focus asks for; the shorter prompt among equals."""
    best: tuple[float, int, ShownPrompt, int] | None = None
    for prompt in prompts:
        of_prompt = mine[mine["prompt"] == prompt.index]
        for at in of_prompt["row"].drop_duplicates().astype(int).tolist():
            part = of_prompt[of_prompt["row"] == at]
            wanted = focus(prompt, at, part["key"].to_numpy())
            mass = round(float(part["mass"].to_numpy()[wanted].sum()), 3)
            if best is None or (mass, -len(prompt.tokens)) > best[:2]:
                best = (mass, -len(prompt.tokens), prompt, at)
    return shown(best[2], best[3], mine, heading) if best else None


def shown(prompt: ShownPrompt, row: int, mine: pd.DataFrame, heading: str = "") -> Example:
    """One row of one head's evidence `mine`, whatever it shows."""
    part = mine[(mine["prompt"] == prompt.index) & (mine["row"] == row)].sort_values("rank")
    keys, masses = part["key"].astype(int).tolist(), part["mass"].astype(float).tolist()
    pairs = list(zip(keys, masses, strict=True))[:_MOST]
    heavy = {k: m for k, m in pairs if m >= _LEAST} or dict(pairs[:1])
    # A span that is most of the prompt says nothing about a token.
    spans = {n: (a, b) for n, (a, b) in prompt.spans.items() if b - a <= len(prompt.tokens) / 4}
    tokens = prompt.tokens
    return Example(
        heading=heading,
        task=prompt.kind,
        length=len(tokens),
        query=visible(tokens[row]),
        position=row,
        next=visible(tokens[row + 1]) if row + 1 < len(tokens) else "",
        best=visible(tokens[keys[0]]),
        best_position=keys[0],
        best_mass=masses[0],
        pieces=tuple(strip(tokens, row, heavy, spans, around=7 if len(heavy) < 4 else 4)),
    )
