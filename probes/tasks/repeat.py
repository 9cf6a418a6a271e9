"""A random sequence, repeated: whatever is predicted has to be copied from a repeat before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import cells
from headscope.probes.tasks._vocabulary import candidates, draw, start

_REPEATS = 4
_LEAST_PERIOD = 4


@TASKS.register
class Repeat:
    """A start token, then P random ordinary tokens four times over; P = (length - 1) // 4.

    Offsets: `echo` = (P, 2P, 3P), the keys that hold the current token already, and `induction`
    = (P - 1, 2P - 1, 3P - 1), the keys after those. They mean something only for rows inside the
    span `repeats` (everything after the first period), and for keys after the start token: the
    last row of a repeat is a whole number of periods away from it. All three are free of that in
    the span `last` (the fourth period). No answer.
    meta: `period` is P. The probe of RazorAttention (arXiv 2407.15891).
    """

    name = "repeat"
    summary = "random tokens repeated four times, for induction and echo"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        ids = candidates(tokenizer)
        made = []
        for cell in cells(self.name, lengths, per_length, seed):
            period = (cell.length - 1) // _REPEATS
            if period < _LEAST_PERIOD:
                raise HeadscopeError(
                    f"A 'repeat' prompt takes at least {_REPEATS * _LEAST_PERIOD + 1} tokens, "
                    f"so a length of {cell.length} is too small."
                )
            block = draw(tokenizer, ids, period + 1, cell.rng())
            first = start(tokenizer) or block[-1:]
            whole = first + block[:period] * _REPEATS
            back = [n * period for n in range(1, _REPEATS)]
            made.append(
                Prompt(
                    self.name, tuple(whole),
                    spans={
                        "repeats": (1 + period, len(whole)),
                        "last": (1 + back[-1], len(whole)),
                    },
                    offsets={"echo": tuple(back), "induction": tuple(d - 1 for d in back)},
                    meta={"kind": "repeated", "length": cell.length, "period": period},
                )
            )  # fmt: skip
        return made
