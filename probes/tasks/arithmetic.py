"""Sums and differences of numbers of two digits."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Cell
from headscope.probes.tasks._contrast import Case, contrasts

_EXAMPLES = 2


@TASKS.register
class Arithmetic:
    """`23 + 45 =` → 68, after two worked examples of the same kind.

    All numbers, results included, have two digits. The counterfactual has another first number
    `a`, and a result that begins with another digit. Spans: `a`, `operator`, `b`.
    meta: `operator`, `carry` (whether a digit is carried or borrowed).
    """

    name = "arithmetic"
    summary = "sums and differences of two-digit numbers"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        return contrasts(self.name, tokenizer, lengths, per_length, seed, _draw)


def _draw(rng: Random, cell: Cell) -> Case:
    operator = "+-"[cell.turn % 2]
    examples = "".join(_line(*_numbers(rng, operator), operator) for _ in range(_EXAMPLES))
    a, b = _numbers(rng, operator)
    result = _result(a, b, operator)
    others = [n for n in range(10, 100) if 10 <= _result(n, b, operator) < 100]
    others = [n for n in others if _result(n, b, operator) // 10 != result // 10]
    other = rng.choice(others or [a])  # a itself is refused as a counterfactual: drawn again
    carry = a % 10 + b % 10 > 9 if operator == "+" else a % 10 < b % 10
    return Case(
        examples + "{a} {operator} {b} =",
        {"a": str(a), "operator": operator, "b": str(b)},
        {"a": str(other)},
        right=[f" {result}"],
        wrong=[f" {_result(other, b, operator)}"],
        meta={"operator": operator, "carry": carry},
    )


def _numbers(rng: Random, operator: str) -> tuple[int, int]:
    """Two numbers of two digits whose result has two as well."""
    while True:
        a, b = rng.randrange(10, 100), rng.randrange(10, 100)
        if 10 <= _result(a, b, operator) < 100:
            return a, b


def _result(a: int, b: int, operator: str) -> int:
    return a + b if operator == "+" else a - b


def _line(a: int, b: int, operator: str) -> str:
    return f"{a} {operator} {b} = {_result(a, b, operator)}\n"
