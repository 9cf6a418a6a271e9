"""What removing each head alone does, prompt by prompt: what cheaper scores are judged by.

Two effects, both of one head's ablation: on the answer to a needle prompt, ablated while the answer
is written, and on the loss of plain text, ablated in every row. Beside each, its first-order estimate
from one backward pass, on other prompts, so that estimate and effect share no noise.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from headscope.heads import intervals
from headscope.heads.headmap import ColumnInfo, HeadMap
from headscope.heads.prove import Trial, answered
from headscope.heads.run import text_hash, versions
from headscope.heads.storage import read_table, write_table
from headscope.probes import (
    TASKS,
    BadFile,
    HeadId,
    Model,
    Prompt,
    Spec,
    each_head,
    each_head_estimate,
    each_head_loss,
    fit,
)

FILE = "ablations.parquet"
_LAYOUT = 1
_UNSEEN = 3_000_017  # added to seeds: no prompt is one of the scan's
_ESTIMATED = 4_000_037  # the same for the prompts of the estimates


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
        return cls(*read_table(run / FILE, AblationsMeta))

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


def ablate_each(
    model: Model,
    run: str | os.PathLike[str],
    removal: Removal | None = None,
    *,
    haystack: str | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Ablations:
    """Ablate every head of a run's model alone, and keep what that does in the run.

    Finished prompts lie in `ablations/` and are reused, so that a stopped measurement goes on. Writes
    `ablations.parquet`, and the columns `effect_answer`, `effect_text`, `estimate_answer` and
    `estimate_text` of the head map.

    Args:
        model: the model that was scanned.
        run: its run folder.
        removal: how to remove heads.
        haystack: text to hide needles in, in place of the default one.
        progress: called with the prompts done and all of them.

    Raises:
        Refused: the run is of another model.
        HeadscopeError: no prompt is answered right.
    """
    folder, removal = Path(run), removal or Removal()
    headmap = HeadMap.open(folder)
    headmap.check(model)
    g = model.geometry
    every = [HeadId(a, b) for a in range(g.layers) for b in range(g.heads)]
    spec = fit(model, removal.method, heads=every, seed=removal.seed + _UNSEEN)
    tables, total = [], 2 * removal.estimates + removal.prompts + removal.texts
    meta = AblationsMeta(
        model=model.name, fingerprint=model.fingerprint, removal=removal,
        haystack=text_hash(haystack), versions=versions(),
    )  # fmt: skip
    for kind, prompts in _work(model, removal, haystack):
        for i, prompt in enumerate(prompts):
            part = _part(model, folder / "ablations", kind, prompt, spec, meta)
            tables.append(part.assign(kind=kind, prompt=np.int16(i)))
            progress(len(tables), total)
    found = Ablations(pd.concat(tables, ignore_index=True), meta)
    write_table(folder / FILE, found.table, meta)
    # Read again: something else may have added a column meanwhile.
    annotated(HeadMap.open(folder), found).save(folder / "headmap.parquet")
    return found


_MEASURES: dict[str, Callable[[Model, Sequence[Prompt], Spec], NDArray[np.float64]]] = {
    "answer": each_head,
    "text": each_head_loss,
    "answer_estimate": each_head_estimate,
    "text_estimate": each_head_estimate,
}


def _work(model: Model, removal: Removal, haystack: str | None) -> Iterator[tuple[str, list[Prompt]]]:
    """The cheap before the dear, so that what is wrong shows early."""
    for suffix, unseen in (("_estimate", _ESTIMATED), ("", _UNSEEN)):
        seed = removal.seed + unseen
        count = removal.estimates if suffix else removal.prompts
        trial = Trial(task=removal.task, seed=seed)
        yield f"answer{suffix}", answered(model, trial, removal.length, count, haystack)[0]
        texts = TASKS["prose"].prompts(
            model.tokenizer,
            lengths=[removal.text_length],
            per_length=removal.estimates if suffix else removal.texts,
            seed=seed,
            haystack=haystack,
        )
        yield f"text{suffix}", texts


def _part(
    model: Model, folder: Path, kind: str, prompt: Prompt, spec: Spec, meta: AblationsMeta
) -> pd.DataFrame:
    """The effects of one prompt: `layer`, `head`, `effect`; read where they are there already."""
    dtype = str(model.hf.dtype)
    content = f"{_LAYOUT}:{kind}:{dtype}:{spec.model_dump_json()}:{prompt.key()}"
    file = folder / f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.parquet"
    try:
        return read_table(file, AblationsMeta)[0]
    except BadFile:  # not there, or damaged: measured again
        effect = _MEASURES[kind](model, [prompt], spec)[:, 0]
    frame = pd.DataFrame({
        "layer": np.array([h.layer for h in spec.heads], np.int32),
        "head": np.array([h.head for h in spec.heads], np.int32),
        "effect": effect,
    })  # fmt: skip
    write_table(file, frame, meta)
    return frame


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
