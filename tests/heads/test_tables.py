"""The tables of a run folder: a column that is missing or of another kind is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, ValidationError

from headscope.heads import Ablations, MapMeta, Proof, ProofMeta, Sweep, read_evidence, read_layers
from headscope.heads.ablations import AblationsMeta, Removal
from headscope.heads.evidence import Shown, ShownPrompt
from headscope.heads.proof import HeadSet, Outcome, curves
from headscope.heads.storage import write_json, write_table
from headscope.heads.sweeps import SweepMeta
from headscope.probes import BadFile, Curve, Geometry, HeadId

WHO: dict[str, Any] = {"model": "toy", "fingerprint": "ab"}
SHAPE = Geometry(
    layers=1, heads=2, kv_heads=1, head_dim=8, value_dim=8, hidden=16, vocabulary=9, context=9,
    windows=(None,),
)  # fmt: skip
PROVED = ProofMeta(
    **WHO, method="mean", positions="generated", task="needle", length=64, seed=0, asked=2, prompts=2,
    draws=0, texts=2, text_length=8, loss=3.0,
)  # fmt: skip
SWEPT = SweepMeta(
    **WHO, task="needle", length=64, asked=2, right=2, accuracy=1.0, logprob=-1.0, sink=4, recent=8, seed=0
)
SHOWN = Shown(
    prompts=(ShownPrompt(index=0, task="needle", kind="needle", tokens=("a", "b", "c"), rows=(2,)),)
)


def _proof() -> pd.DataFrame:
    outcome = Outcome(np.array([True, False]), np.ones(2), np.ones(2))
    return curves([HeadSet("retrieval", 1, None, (HeadId(0, 1),), 1)], [outcome], seed=0)


def _points() -> pd.DataFrame:
    names = "budget kv_share full_share kept kept_low kept_high accuracy logprob_drop logprob_drop_se"
    return pd.DataFrame({"by": ["error"], "draw": [0]} | {name: [0.5] for name in names.split()})


def _effects() -> pd.DataFrame:
    rows = [(layer, head, 0.5, "text", 0) for layer in (0,) for head in (0, 1)]
    return pd.DataFrame(rows, columns=["layer", "head", "effect", "kind", "prompt"])


def _rows() -> pd.DataFrame:
    return pd.DataFrame(
        {n: [0, 0] for n in ("prompt", "layer", "head", "row", "rank", "key")} | {"mass": 0.5}
    )


def _evidence(folder: Path) -> object:
    write_json(folder / "prompts.json", SHOWN)
    return read_evidence(folder)


TABLES: dict[str, tuple[pd.DataFrame, BaseModel, Callable[[Path], object]]] = {
    "causal": (_proof(), PROVED, Proof.open),
    "sweep": (_points(), SWEPT, Sweep.open),
    "ablations": (_effects(), AblationsMeta(**WHO, removal=Removal()), Ablations.open),
    "layers": (
        pd.DataFrame({"layer": [0]}), MapMeta(model="toy", geometry=SHAPE),
        lambda folder: read_layers(folder / "layers.parquet"),
    ),
    "rows": (_rows(), SHOWN, _evidence),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_there_and_of_its_kind(name: str, tmp_path: Path) -> None:
    frame, meta, read = TABLES[name]
    file = tmp_path / f"{name}.parquet"
    write_table(file, frame, meta)
    read(tmp_path)
    for column in frame.columns:
        write_table(file, frame.drop(columns=column), meta)
        with pytest.raises(BadFile, match=rf"{name}.parquet' lacks the column '{column}'\.$"):
            read(tmp_path)
        words = frame[column].dtype.kind in "OU" or isinstance(frame[column].iloc[0], str)
        write_table(file, frame.assign(**{column: 7 if words else "seven"}), meta)
        with pytest.raises(BadFile, match=rf"column '{column}' of .*{name}.parquet' does not hold "):
            read(tmp_path)


@pytest.mark.parametrize("wrong", [{"key": 3}, {"row": -1}, {"prompt": 9}])
def test_evidence_speaks_of_tokens_that_are_there(wrong: dict[str, int], tmp_path: Path) -> None:
    write_table(tmp_path / "rows.parquet", _rows().assign(**wrong), SHOWN)
    with pytest.raises(BadFile, match=r"tokens that prompts\.json does not have"):
        _evidence(tmp_path)


def test_an_ablation_is_measured_once(tmp_path: Path) -> None:
    frame, meta, read = TABLES["ablations"]
    write_table(tmp_path / "ablations.parquet", pd.concat([frame, frame]), meta)
    with pytest.raises(BadFile, match="has an ablation twice"):
        read(tmp_path)


def test_a_curve_has_as_many_of_everything() -> None:
    fine: dict[str, Any] = {"share": (0.5, 1.0), "count": (1, 2), "kept": (1.0, 2.0), "f": (0.5, 1.0)}
    said: dict[str, Any] = {
        "method": "eap", "task": "ioi", "grain": "heads", "ablation": "zero", "prompts": 2, "whole": 2.0,
        "nothing": 0.0, "f_se": (None, 0.1), "cpr": 0.5, "cpr_se": None, "cmd": 0.5, "cmd_se": None,
    }  # fmt: skip
    Curve(**fine, **said)
    for name in fine:
        with pytest.raises(ValidationError, match="of each size"):
            Curve(**fine | {name: fine[name][:1]}, **said)
