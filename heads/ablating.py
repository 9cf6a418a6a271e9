"""Measuring what removing each head alone does; a measurement that was stopped goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headscope.heads.ablations import FILE, Ablations, AblationsMeta, Removal, annotated
from headscope.heads.headmap import HeadMap
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

_LAYOUT = 1
_UNSEEN = 3_000_017  # added to seeds: no prompt is one of the scan's
_ESTIMATED = 4_000_037  # the same for the prompts of the estimates


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
