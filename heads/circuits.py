"""Circuits in a run folder: one JSON file for each task and method, their curves, and columns of the map.

`<run>/circuits/<task>/<method>.json`, and `curves.json` beside them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from headscope.heads.headmap import ColumnInfo, HeadMap, MapMeta
from headscope.heads.storage import read_json, write_json
from headscope.probes import METHODS, BadFile, Circuit, Curve, HeadscopeError, Refused

FOLDER = "circuits"
_CURVES = "curves.json"


class Curves(BaseModel):
    """`curves.json`: what the circuits of one task keep on prompts that no method has seen.

    Attributes:
        schema_version: layout of the file.
        curves: one for each method, grain and ablation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True)
class TaskCircuits:
    """What a run knows about one task's circuits.

    Attributes:
        task: the task.
        circuits: by method, in alphabetical order.
        curves: their faithfulness, baselines included.
    """

    task: str
    circuits: dict[str, Circuit]
    curves: tuple[Curve, ...]


def keep_circuits(
    run: str | os.PathLike[str], circuits: Sequence[Circuit], curves: Sequence[Curve]
) -> list[Path]:
    """Write circuits of one task into a run folder and their scores into its head map.

    A folder without a head map gets one of these scores alone. Curves of other methods stay.

    Returns:
        The circuits' files.

    Raises:
        Refused: the run is of another model.
        HeadscopeError: a task whose name cannot be a folder's.
    """
    folder = Path(run)
    headmap = _map_for(folder, circuits[0])
    made = []
    for circuit in circuits:
        where = folder / FOLDER / _safe(circuit.task)
        circuit.save(where / f"{_safe(circuit.method)}.json")
        made.append(where / f"{circuit.method}.json")
        headmap = with_circuit(headmap, circuit)
    file = folder / FOLDER / _safe(circuits[0].task) / _CURVES
    held = read_json(file, Curves).curves if file.is_file() else ()
    fresh = {(c.method, c.grain, c.ablation) for c in curves}
    stay = [c for c in held if (c.method, c.grain, c.ablation) not in fresh]
    write_json(file, Curves(curves=(*stay, *curves)))
    headmap.save(folder / "headmap.parquet")
    return made


def tasks_with_circuits(run: str | os.PathLike[str]) -> list[str]:
    """Tasks whose circuits stand in a run folder, in alphabetical order."""
    home = Path(run) / FOLDER
    return sorted(p.name for p in home.iterdir() if p.is_dir()) if home.is_dir() else []


def open_circuits(run: str | os.PathLike[str], task: str) -> TaskCircuits:
    """Everything a run folder holds about one task's circuits.

    Raises:
        BadFile: nothing there, or a damaged file.
    """
    if task not in tasks_with_circuits(run):
        raise BadFile(f"{str(run)!r} holds no circuits of {task!r}.")
    where = Path(run) / FOLDER / task
    files = sorted(p for p in where.glob("*.json") if p.name != _CURVES)
    curves = where / _CURVES
    return TaskCircuits(
        task,
        {path.stem: Circuit.open(path) for path in files},
        read_json(curves, Curves).curves if curves.is_file() else (),
    )


def with_circuit(headmap: HeadMap, circuit: Circuit) -> HeadMap:
    """The map with a circuit's scores as the column `circuit_<task>_<method>` and its `_se`.

    Raises:
        Refused: the map is of another model.
    """
    meta = headmap.meta
    if meta.geometry != circuit.geometry or meta.fingerprint != circuit.fingerprint:
        raise Refused(
            f"The map is of {meta.model!r} with weights {meta.fingerprint or 'unknown'}, and this circuit of "
            f"{circuit.model!r} with weights {circuit.fingerprint}."
        )
    name = column_of(circuit)
    scores = circuit.heads().rename(columns={"score": name, "score_se": f"{name}_se"})
    frame = headmap.frame.drop(columns=[c for c in (name, f"{name}_se") if c in headmap.frame])
    merged = frame.merge(scores, on=["layer", "head"], how="left")
    info = ColumnInfo(
        about=f"worth of the head's output to {circuit.task} by {circuit.method}, in {circuit.unit}",
        low=None, high=None, tasks=(circuit.task,), prompts=circuit.prompts,
        source=METHODS[circuit.method].source if circuit.method in METHODS.names() else "",
    )  # fmt: skip
    return HeadMap(merged, meta.model_copy(update={"columns": meta.columns | {name: info}}), headmap.path)


def column_of(circuit: Circuit) -> str:
    """The head map's column of a circuit."""
    return re.sub(r"[^0-9A-Za-z]+", "_", f"circuit_{circuit.task}_{circuit.method}")


def _map_for(folder: Path, circuit: Circuit) -> HeadMap:
    """The run's map, or an empty one of the circuit's model."""
    if (folder / "headmap.parquet").exists():
        return HeadMap.open(folder)
    g = circuit.geometry
    frame = circuit.heads()[["layer", "head"]]
    frame["kv_head"] = frame["head"] // g.group_size
    meta = MapMeta(
        model=circuit.model, fingerprint=circuit.fingerprint, geometry=g, preset="circuits",
        seed=circuit.seed, versions=circuit.versions,
        accuracy={} if circuit.accuracy is None else {circuit.task: circuit.accuracy},
        tasks={circuit.task: circuit.prompts},
    )  # fmt: skip
    return HeadMap(frame, meta)


def _safe(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise HeadscopeError(f"{name!r} cannot be the name of a folder; use letters, digits, - and _.")
    return name
