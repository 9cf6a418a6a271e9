"""Windows of Python source."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.haystack import Haystack
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._windows import stretches

# Top-level modules of plain Python in every supported version: finding them imports nothing.
_MODULES = (
    "calendar", "csv", "dataclasses", "fractions", "functools", "pprint", "random", "shlex",
    "statistics", "string", "textwrap", "tokenize", "uuid",
)  # fmt: skip
_DEFINITION = re.compile(r"\n(?=(?:async def|def|class) )")


@lru_cache(maxsize=1)
def source() -> str:
    """The source of some standard modules, one after the other; read, never executed."""
    found = []
    for name in _MODULES:
        spec = importlib.util.find_spec(name)
        path = Path(spec.origin) if spec and spec.origin else None
        if path and path.suffix == ".py" and path.is_file():
            found.append(path.read_text(encoding="utf-8"))
    if not found:
        raise HeadscopeError(
            "This Python carries no source of its standard library, which 'code' prompts are made of."
        )
    return "\n\n".join(found)


@TASKS.register
class Code:
    """Different windows of the standard library's source, each from a top-level definition.

    The text belongs to the Python version. No spans, no answer; the haystack is not used.
    meta: `begin` is the character of the joined sources at which the window begins.
    """

    name = "code"
    summary = "windows of Python source code"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        hay = Haystack.of(tokenizer, source(), _DEFINITION)
        return stretches(self.name, tokenizer, hay, lengths, per_length, seed)
