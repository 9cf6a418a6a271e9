"""Indirect object identification: who was given something by one of two people."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Cell
from headscope.probes.tasks._contrast import Case, contrasts
from headscope.probes.tasks._words import GIFTS, PEOPLE, PLACES

_OPENINGS = (
    "When {first} and {second} went to the {place}, {s2} gave the {gift} to",
    "Then, {first} and {second} had a long day at the {place}, and {s2} gave the {gift} to",
    "After {first} and {second} went to the {place}, {s2} gave a {gift} to",
    "While {first} and {second} were working at the {place}, {s2} gave the {gift} to",
)


@TASKS.register
class IndirectObject:
    """`When Mary and John went to the store, John gave the drink to` → Mary.

    The giver is the second name (`order` ABB) or the first (BAB), each half of the time. In the
    counterfactual the other one gives. Spans: `io` and `s1` (the two names, the receiver's and the
    giver's), `s2` (the giver again), `place`, `gift`. meta: `order`, `opening`.
    After Wang et al. 2022 (arXiv 2211.00593).
    """

    name = "ioi"
    summary = "two people, one gives: to whom (indirect object identification)"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        return contrasts(self.name, tokenizer, lengths, per_length, seed, _draw)


def _draw(rng: Random, cell: Cell) -> Case:
    io, giver = rng.sample(PEOPLE, 2)
    receiver_first = cell.turn % 2 == 0
    opening = cell.turn // 2 % len(_OPENINGS)
    order = ("{io}", "{s1}") if receiver_first else ("{s1}", "{io}")
    template = _OPENINGS[opening].replace("{first}", order[0]).replace("{second}", order[1])
    return Case(
        template,
        {"io": io, "s1": giver, "s2": giver, "place": rng.choice(PLACES), "gift": rng.choice(GIFTS)},
        {"s2": io},
        right=[f" {io}"],
        wrong=[f" {giver}"],
        meta={"order": "ABB" if receiver_first else "BAB", "opening": opening},
    )
