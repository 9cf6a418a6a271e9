"""Greater-than: a period ends after the year in which it began."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Cell
from headscope.probes.tasks._contrast import Case, contrasts
from headscope.probes.tasks._words import PERIODS


@TASKS.register
class GreaterThan:
    """`The war lasted from the year 1739 to the year 17` → 4, 5, ... 9 (or 40 ... 99).

    Years begin in the last year of a decade, so that the decade decides even where a tokenizer
    cuts numbers into digits. The counterfactual begins in 09: hardly any end is then too early.
    Spans: `period`, `century`, `start` (the two digits that count), `again` (the century that the
    answer completes). meta: `start`. After Hanna et al. 2023 (arXiv 2305.00586).
    """

    name = "greater_than"
    summary = "a period's last year, which must be later than its first"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        return contrasts(self.name, tokenizer, lengths, per_length, seed, _draw)


def _draw(rng: Random, cell: Cell) -> Case:
    century = str(rng.randrange(12, 19))
    start = 10 * (1 + cell.turn % 8) + 9
    later = [f"{year}" for year in range(start + 1, 100)]
    rng.shuffle(later)
    return Case(
        "The {period} lasted from the year {century}{start} to the year {again}",
        {"period": rng.choice(PERIODS), "century": century, "start": str(start), "again": century},
        {"start": "09"},
        right=later,
        wrong=[f"{year:02}" for year in range(start)],
        meta={"start": start},
    )
