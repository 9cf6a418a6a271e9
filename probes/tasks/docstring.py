"""Docstring: the next argument that a docstring has to document."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks._build import Cell
from headscope.probes.tasks._contrast import Case, contrasts

# Words that are one token after a blank in most vocabularies.
_NAMES = (
    "action", "arm", "artist", "author", "book", "box", "camera", "card", "city", "client", "code",
    "color", "count", "date", "day", "door", "event", "field", "file", "form", "group", "host", "image",
    "index", "item", "key", "label", "letter", "level", "line", "list", "map", "member", "message",
    "model", "name", "node", "option", "order", "owner", "page", "path", "place", "player", "port",
    "price", "project", "question", "record", "result", "role", "room", "rule", "score", "section",
    "size", "source", "state", "step", "table", "tag", "task", "team", "test", "text", "time", "title",
    "token", "topic", "type", "user", "value", "version", "view", "week", "word",
)  # fmt: skip
_TEMPLATE = (
    "def {function}(self, {first}, {second}, {third}, {next}, {other}):\n"
    '    """{about0} {about1}\n\n'
    "    :param {first2}: {says0} {says1}\n"
    "    :param {second2}: {says2} {says3}\n"
    "    :param {third2}: {says4} {says5}\n"
    "    :param"
)


@TASKS.register
class Docstring:
    """`def load(self, page, size, user, rule, key): ... :param user: ...\\n:param` → rule.

    Three arguments are documented, the fourth is next. In the counterfactual the fourth and the fifth
    have changed places. Spans: `next` and `other` (the two), `first`, `second`, `third` and the same
    with a `2` where they are documented, and the filling words. After Heimersheim & Janiak 2023
    ("A circuit for Python docstrings in a 4-layer attention-only transformer").
    """

    name = "docstring"
    summary = "the argument that a docstring documents next"

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        return contrasts(self.name, tokenizer, lengths, per_length, seed, _draw)


def _draw(rng: Random, cell: Cell) -> Case:
    names = rng.sample(_NAMES, 14)
    fields = ["function", "first", "second", "third", "next", "other", "about0", "about1"]
    values = dict(zip([*fields, *(f"says{i}" for i in range(6))], names, strict=True))
    values |= {f"{name}2": values[name] for name in ("first", "second", "third")}
    return Case(
        _TEMPLATE,
        values,
        {"next": values["other"], "other": values["next"]},
        right=[f" {values['next']}"],
        wrong=[f" {values['other']}"],
    )
