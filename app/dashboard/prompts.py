"""The part of the head page that shows real rows: what the run's evidence has of this head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import address, look, store, strips
from headscope.app.examples import clearest_row, shown
from headscope.app.looks import title
from headscope.app.palette import hue_of
from headscope.app.tokens import visible

if TYPE_CHECKING:
    import pandas as pd

    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap, ShownPrompt


def show(run: Run, headmap: HeadMap, layer: int, head: int) -> None:
    """Real examples: a kind of prompt, one of its prompts, one of its rows."""
    look.section("Where it looks", "From a token of the scan's own prompts, at the tokens before it.")
    found = store.evidence(run, (layer, head))
    if found is None or not found[0]:
        look.note("This run kept no evidence, as imported maps do; a scan of the model has some.")
        return
    texts, mine = found
    kinds = list(dict.fromkeys(p.kind for p in texts))
    a, b = st.columns((2.2, 1), vertical_alignment="bottom")
    with a:
        kind = address.choose("Kind of text", "kind", kinds, kinds[0], say=title, buttons=True)
    of_kind = [p for p in texts if p.kind == kind]
    with b:
        names = [str(p.index) for p in of_kind]
        chosen = address.choose("Prompt", "prompt", names, names[0], say=lambda n: _describe(of_kind, n))
    prompt = next(p for p in of_kind if str(p.index) == chosen)
    _row(headmap, prompt, mine, layer, head)


def _describe(texts: list[ShownPrompt], name: str) -> str:
    prompt = next(p for p in texts if str(p.index) == name)
    right = f", answered {'right' if prompt.right else 'wrong'}" if prompt.answer else ""
    depth = prompt.meta.get("depth")
    where = f", {depth:.0%} deep" if isinstance(depth, int | float) else ""
    return f"{len(prompt.tokens):,} tokens{where}{right}"


def _row(headmap: HeadMap, prompt: ShownPrompt, mine: pd.DataFrame, layer: int, head: int) -> None:
    rows = strips.rows_of(prompt, mine)
    best = clearest_row(prompt, mine)
    if not rows or best is None:
        look.note("No row of this prompt was kept for this head.")
        return
    hue = _hue(headmap, layer, head)
    at = _from(prompt, sorted(rows), best)
    look.html(look.part("row", x=shown(prompt, at, mine), hue=hue))
    if address.switch("The whole prompt", "whole"):
        begin = strips.window(len(prompt.tokens), at)
        strips.strip(prompt.tokens, rows, begin, key="prompt", at=at, spans=prompt.spans, hue=hue)


def _from(prompt: ShownPrompt, rows: list[int], best: int) -> int:
    """The query row to show: the one asked for, or the clearest."""
    options = [str(row) for row in rows]
    if address.asked("row") not in options:  # it belonged to another prompt
        address.put(row=None)

    def say(row: str) -> str:
        return f"{row} {visible(prompt.tokens[int(row)])}{', the clearest' if int(row) == best else ''}"

    return int(address.choose("From which token", "row", options, str(best), say=say))


def _hue(headmap: HeadMap, layer: int, head: int) -> str:
    """The hue of the head's rarest role."""
    frame = headmap.frame
    row = frame[(frame["layer"] == layer) & (frame["head"] == head)].iloc[0]
    has = [r for r in headmap.roles if row[headmap.rule(r).column]]
    rarest = min(has, key=lambda r: int(frame[headmap.rule(r).column].sum()), default="")
    return hue_of(rarest) if rarest else "var(--active)"
