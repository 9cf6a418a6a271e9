"""Key-value lookup among delimiters that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Cell
from headscope.probes.tasks._contrast import Case, contrasts
from headscope.probes.tasks._words import ADJECTIVES, NOUNS

_PAIRS = 6
_DELIMITERS = ("###", "|", ";;", "---", "//", "***", "::", "~~")


@TASKS.register
class Delimiters:
    """Six records such as `### amber = falcon |`, one value asked for by its key.

    Every record stands between delimiters drawn at random, which attract attention and carry
    nothing. In the counterfactual another key is asked for. Spans: `k0` ... `k5`, `v0` ... `v5`,
    `key` and `asked` (the key in the question and in the answer). meta: `which` (0 ... 5). Made
    for interventions on attention sinks.
    """

    name = "delimiters"
    summary = "a value looked up by its key among meaningless delimiters"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        return contrasts(self.name, tokenizer, lengths, per_length, seed, _draw)


def _draw(rng: Random, cell: Cell) -> Case:
    keys, values = rng.sample(ADJECTIVES, _PAIRS), rng.sample(NOUNS, _PAIRS)
    which = cell.turn % _PAIRS
    rest = [i for i in range(_PAIRS) if i != which]
    rng.shuffle(rest)
    lines = [
        f"{rng.choice(_DELIMITERS)} {{k{i}}} = {{v{i}}} {rng.choice(_DELIMITERS)}\n" for i in range(_PAIRS)
    ]
    named = {f"k{i}": k for i, k in enumerate(keys)} | {f"v{i}": v for i, v in enumerate(values)}
    return Case(
        "".join(lines) + "Question: which value has {key}?\nAnswer: {asked} =",
        named | {"key": keys[which], "asked": keys[which]},
        {"key": keys[rest[0]], "asked": keys[rest[0]]},
        right=[f" {values[which]}"],
        wrong=[f" {values[i]}" for i in rest],
        meta={"which": which},
    )
