"""Induction: random tokens once more, of which the next one has to be copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.prompts import TASKS, Contrast, Prompt
from headscope.probes.tasks._build import Cell, cells
from headscope.probes.tasks._vocabulary import candidates, draw, start

_PERIOD = 24  # random tokens before they return
_CONTEXT = 2  # tokens before the copied one that change places in the counterfactual
_LEAST = 12  # tokens that return before one has to be copied


@TASKS.register
class Induction:
    """A start token, 24 random tokens, and again the first of them; what comes next?

    In the counterfactual the two tokens before the right answer and those before another one have
    changed places in the first round, so that the other one follows. Spans: `value` (the token to
    copy), `pair` (the two before it), `rival` and `rival_pair` (the same for the other), `again` (what
    returns). meta: `returned`, how many tokens do. A contrast of what `repeat` shows; after Olsson et
    al. 2022 (arXiv 2209.11895).
    """

    name = "induction"
    summary = "random tokens that return, the next one to be copied"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        ids = candidates(tokenizer)
        return [_prompt(tokenizer, ids, cell) for cell in cells(self.name, lengths, per_length, seed)]


def _prompt(tokenizer: Any, ids: list[int], cell: Cell) -> Prompt:
    rng = cell.rng()
    block = draw(tokenizer, ids, _PERIOD + 1, rng)
    first = start(tokenizer) or block[-1:]
    block = block[:_PERIOD]
    if len(set(block)) < _PERIOD:
        raise HeadscopeError("An 'induction' prompt takes 24 different tokens, which this tokenizer lacks.")
    here = rng.randrange(_LEAST, _PERIOD)
    far = [i for i in range(_CONTEXT, _PERIOD) if abs(i - here) > _CONTEXT]
    there = rng.choice(far)
    clean = [*first, *block, *block[:here]]
    if len(clean) + 1 > cell.length:
        raise HeadscopeError(
            f"An 'induction' prompt takes {len(clean) + 1} tokens with this tokenizer, "
            f"so a length of {cell.length} is too small."
        )
    twin, one, two = list(clean), 1 + here, 1 + there
    for back in range(1, _CONTEXT + 1):
        twin[one - back], twin[two - back] = clean[two - back], clean[one - back]
    return Prompt(
        "induction", (*clean, block[here]),
        spans={
            "value": (one, one + 1), "pair": (one - _CONTEXT, one), "rival": (two, two + 1),
            "rival_pair": (two - _CONTEXT, two), "again": (1 + _PERIOD, len(clean)),
        },
        answer=(len(clean), len(clean) + 1), source=(one,),
        meta={"kind": "induction", "returned": here, "length": cell.length},
        contrast=Contrast(tuple(twin), (block[here],), (block[there],)),
    )  # fmt: skip
