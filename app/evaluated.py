"""What `headscope evaluate --json` and `intervene --json` print, read again: tables with their controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from headscope.app import tables_evaluate
from headscope.app.tables_causal import effect_table, told_cells, told_headers
from headscope.probes import BadFile, Spec, read_json

Row = dict[str, JsonValue]


class Scenes(BaseModel):
    """Pictures of one world: a row for each way of writing, the untouched model first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    captions: tuple[Row, ...] = ()
    questions: tuple[Row, ...] = ()


class Evaluation(BaseModel):
    """What `headscope evaluate --json` prints.

    Attributes:
        model, fingerprint: what was evaluated.
        scenes, seeds, seed: pictures of each seed, how many seeds, and the first.
        specs: the files of the interventions.
        neutral, usual, breaking: what was found in each world; None where it was not asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    fingerprint: str
    scenes: int
    seeds: int
    seed: int
    specs: tuple[str, ...] = ()
    neutral: Scenes | None = None
    usual: Scenes | None = None
    breaking: Scenes | None = None


class Effect(BaseModel):
    """What `headscope intervene --json` prints.

    Attributes:
        spec: the intervention.
        effect: answers to prompts, a row for the untouched model, the intervention and each control.
        told: the same by the first token of the answer, for tasks of pairs.
        asked: what is said to one prompt, untouched and with it, where one was asked with --ask.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: Spec
    effect: tuple[Row, ...]
    told: tuple[Row, ...] = ()
    asked: dict[str, JsonValue] | None = None


@dataclass(frozen=True)
class Evaluated:
    """One table as text, of the model with this fingerprint."""

    fingerprint: str
    title: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    about: str


def read(file: Path) -> list[Evaluated]:
    """The tables of one file.

    Raises:
        BadFile: neither an evaluation nor an effect, or rows that lack a number.
    """
    try:
        found = read_json(file, Effect)
    except BadFile:
        return _read(file, partial(_of_evaluation, read_json(file, Evaluation)))
    return _read(file, partial(_of_effect, found))


def _read(file: Path, tables: Callable[[], list[Evaluated]]) -> list[Evaluated]:
    try:
        return tables()
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(f"{str(file)!r} has rows that are no evaluation's: {error!r}.") from error


def _of_evaluation(found: Evaluation) -> list[Evaluated]:
    pictures, tables = found.scenes * found.seeds, []
    for world in ("neutral", "usual", "breaking"):
        seen: Scenes | None = getattr(found, world)
        if seen and seen.captions:
            rows = [
                tables_evaluate.caption_cells(row, not i) for i, row in enumerate(_numbers(seen.captions))
            ]
            about = tables_evaluate.about(pictures, found.seeds)
            title, headers = f"Captions of {world} scenes", tables_evaluate.CAPTION_HEADERS
            tables.append(Evaluated(found.fingerprint, title, headers, rows, about))
        if seen and seen.questions:
            rows = [tables_evaluate.question_cells(row) for row in _numbers(seen.questions)]
            title, headers = f"Questions about {world} scenes", tables_evaluate.QUESTION_HEADERS
            tables.append(Evaluated(found.fingerprint, title, headers, rows, "95%: exact, over all answers."))
    return tables


def _of_effect(found: Effect) -> list[Evaluated]:
    spec = found.spec
    title = f"{spec.method} on {len(spec.heads)} heads, {spec.positions} rows"
    headers, rows = effect_table(_numbers(found.effect))
    about = (
        "Log-probability in nats per answer token, loss in nats per token; changes are paired. Opposite: the "
        "same change with its sign turned round; random heads: the same change elsewhere in the same layers."
    )
    tables = [Evaluated(spec.fingerprint, title, headers, rows, about)]
    if found.told:
        headers = told_headers(spec.source.task == "conflict")
        told = [told_cells(row) for row in _numbers(found.told)]
        tables.append(Evaluated(spec.fingerprint, "Answers, by their first token", headers, told, ""))
    return tables


def _numbers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with what is no number as NaN again."""
    return [{name: float("nan") if v is None else v for name, v in row.items()} for row in rows]
