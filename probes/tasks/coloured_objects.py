"""Coloured objects: three things, the colour of one asked for."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Cell
from headscope.probes.tasks._contrast import Case, contrasts
from headscope.probes.tasks._words import COLOURS, OBJECTS

_SCENE = "On the table, there is a {c0} {o0}, a {c1} {o1}, and a {c2} {o2}. The color of the {asked} is"


@TASKS.register
class ColouredObjects:
    """A worked example, then `On the table, there is a red cup, a blue hat, ...` → the hat's colour.

    In the counterfactual another of the three objects is asked for. Spans: `c0` ... `c2` (colours),
    `o0` ... `o2` (objects), `asked`. meta: `which` (0 ... 2).
    After Merullo et al. 2023 (arXiv 2310.08744), who take the task from BIG-bench.
    """

    name = "coloured_objects"
    summary = "three coloured things, the colour of one asked for"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        return contrasts(self.name, tokenizer, lengths, per_length, seed, _draw)


def _draw(rng: Random, cell: Cell) -> Case:
    example, _ = _scene(rng)
    asked = rng.randrange(3)
    shown = _SCENE.format(**example, asked=example[f"o{asked}"])
    values, colours = _scene(rng)
    which = cell.turn % 3
    other = rng.choice([i for i in range(3) if i != which])
    return Case(
        f"{shown} {example[f'c{asked}']}.\n{_SCENE}",
        {**values, "asked": values[f"o{which}"]},
        {"asked": values[f"o{other}"]},
        right=[f" {colours[which]}"],
        wrong=[f" {colours[i]}" for i in (other, 3 - which - other)],
        meta={"which": which},
    )


def _scene(rng: Random) -> tuple[dict[str, str], list[str]]:
    colours, objects = rng.sample(COLOURS, 3), rng.sample(OBJECTS, 3)
    named = {f"c{i}": c for i, c in enumerate(colours)} | {f"o{i}": o for i, o in enumerate(objects)}
    return named, colours
