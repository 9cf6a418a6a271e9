"""What removing each head alone does, prompt by prompt: what cheaper scores are judged by.

Two effects, both of one head's ablation: on the answer to a needle prompt, ablated while the answer
is written, and on the loss of plain text, ablated in every row. Beside each, its first-order estimate
from one backward pass, on other prompts, so that estimate and effect share no noise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from headscope.heads import intervals
from headscope.heads.headmap import ColumnInfo, HeadMap
from headscope.heads.run import text_hash
from headscope.heads.storage import check_columns, read_table
from headscope.probes import BadFile

FILE = "ablations.parquet"
_COLUMNS = {
    "answer": (
        "effect_answer",
        "fall of the answer's log-probability, nats per token, when the head alone is ablated while the "
        "answer is written",
    ),
    "text": (
        "effect_text",
        "rise of the loss on plain text, nats per token, when the head alone is ablated in every row",
    ),
    "answer_estimate": ("estimate_answer", "effect_answer to first order, from one backward pass a prompt"),
    "text_estimate": ("estimate_text", "effect_text to first order, from one backward pass a text"),
}
_ADDED = [column for column, _ in _COLUMNS.values()]
_SOURCES = {
    False: "after Wu et al. 2024 (arXiv 2404.15574), head by head",
    True: "attribution patching (Nanda 2023) towards what the ablation puts there",
}


class Removal(BaseModel):
    """How heads are removed, and before which prompts.

    Attributes:
        method: an ablation, a name in `INTERVENTIONS`.
        task: a task whose prompts have answers.
        length, prompts: of its prompts, in tokens; how many, all of which the model answers right.
        text_length, texts: the same of plain text.
        estimates: prompts, and texts, for the first-order estimates.
        seed: everything random follows from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "mean"
    task: str = "needle"
    length: int = Field(default=1024, ge=64)
    prompts: int = Field(default=12, ge=2)
    text_length: int = Field(default=128, ge=8)
    texts: int = Field(default=8, ge=2)
    estimates: int = Field(default=4, ge=2)
    seed: int = Field(default=0, ge=0)


class AblationsMeta(BaseModel):
    """How effects were measured; stored in the metadata of `ablations.parquet`.

    Attributes:
        schema_version: layout of the file.
        model, fingerprint: whose heads.
        removal: how.
        haystack: hash of the text that needles were hidden in; empty for the default.
        versions: versions of the libraries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    model: str
    fingerprint: str
    removal: Removal
    haystack: str = ""
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class Ablations:
    """Ablations of every head, in the order of layers and heads. N heads.

    Attributes:
        table: one row per head, kind and prompt: `layer`, `head`, `kind`, `prompt`, `effect`.
            Kinds: `answer` is the fall of the answer's log-probability, `text` the rise of the
            loss, both in nats per token; `answer_estimate` and `text_estimate` their estimates.
        meta: how they were measured.
    """

    table: pd.DataFrame
    meta: AblationsMeta

    def of(self, kind: str) -> NDArray[np.float64]:
        """The effects of one kind. [N, prompts]"""
        rows = self.table[self.table["kind"] == kind]
        wide = rows.pivot(index=["layer", "head"], columns="prompt", values="effect")
        return wide.to_numpy(np.float64)

    @classmethod
    def open(cls, run: Path) -> Ablations:
        """Read them from a run folder.

        Raises:
            BadFile: missing or damaged.
        """
        table, meta = read_table(run / FILE, AblationsMeta)
        once = ("layer", "head", "prompt")
        check_columns(run / FILE, table, whole=once, numbers=("effect",), words=("kind",))
        if table.duplicated([*once, "kind"]).any():
            raise BadFile(f"The table {str(run / FILE)!r} has an ablation twice.")
        return cls(table, meta)

    @classmethod
    def known(
        cls, run: str | os.PathLike[str], removal: Removal, haystack: str | None = None
    ) -> Ablations | None:
        """Those of a run folder, if they were measured in just this way on the weights it holds.

        Raises:
            BadFile: the run has no head map, or its ablations are damaged.
        """
        folder = Path(run)
        if not (folder / FILE).exists():
            return None
        found, headmap = cls.open(folder), HeadMap.open(folder)
        wanted = headmap.meta.fingerprint, removal, text_hash(haystack)
        mine = found.meta.fingerprint, found.meta.removal, found.meta.haystack
        return found if mine == wanted and set(_ADDED) <= set(headmap.frame) else None


def annotated(headmap: HeadMap, found: Ablations) -> HeadMap:
    """The map with the mean effects and estimates as columns."""
    removal, shape = found.meta.removal, (headmap.meta.geometry.layers, headmap.meta.geometry.heads)
    for kind, (column, text) in _COLUMNS.items():
        values = found.of(kind)
        errors = np.array([intervals.standard_error(v) for v in values])
        task = removal.task if kind.startswith("answer") else "prose"
        info = ColumnInfo(
            about=f"{text} ({removal.method})", low=None, high=None, tasks=(task,),
            prompts=values.shape[1], source=_SOURCES[kind.endswith("estimate")],
        )  # fmt: skip
        headmap = headmap.with_score(column, values.mean(1).reshape(shape), errors.reshape(shape), info)
    return headmap
