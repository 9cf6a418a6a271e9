"""Where in a picture each head looks: the mass on every image token, for the pictures of the evidence.

`looks.parquet` has one row per (prompt, layer, head, image token): `token` is its position, `mass`
the mean over the rows that write the answer (or over rows of text after the picture, where there
is none), `sink` whether it is a visual sink of the layer. The pictures lie beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from headscope.heads.storage import (
    check_columns,
    read_json,
    read_table,
    write_atomically,
    write_json,
    write_table,
)
from headscope.probes import Picture, View

if TYPE_CHECKING:
    from headscope.probes import Observation


class _Seen(BaseModel):
    """One prompt: its number in the evidence, its pictures' files, and what shows what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: int
    pictures: tuple[str, ...]
    views: tuple[View, ...]


class _Gallery(BaseModel):
    """`looks.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen: tuple[_Seen, ...] = ()


@dataclass(frozen=True)
class Look:
    """Where in one picture one head looks.

    Attributes:
        prompt: number of the prompt in the evidence.
        picture: what is looked at.
        views: where its image tokens lie.
        mass: what lies on each image token, by position in the prompt.
        sinks: positions of the visual sinks among them.
    """

    prompt: int
    picture: Picture
    views: tuple[View, ...]
    mass: Mapping[int, float]
    sinks: frozenset[int]


def write_looks(folder: Path, chosen: Sequence[Observation], width: int) -> None:
    """Keep what the heads looked at, for those of the evidence's prompts that show pictures."""
    shown = [(i, o) for i, o in enumerate(chosen) if "look" in o.head]
    if not shown:
        return
    from headscope.sinks import looking, visual_sinks  # these load torch; pages that only read do without

    found = looking([o for _, o in shown], width)
    tables, seen = [], []
    for index, o in shown:
        names = tuple(_keep(folder, picture) for picture in o.prompt.pictures)
        seen.append(_Seen(prompt=index, pictures=names, views=o.prompt.views))
        tables.append(_table(index, o, visual_sinks(o, found.dims, found.tau)))
    write_table(folder / "looks.parquet", pd.concat(tables, ignore_index=True), _Gallery())
    write_json(folder / "looks.json", _Gallery(seen=tuple(seen)))


def _keep(folder: Path, picture: Picture) -> str:
    """Write a picture; the name of its file."""
    name = f"{picture.digest}.png"
    write_atomically(folder / name, lambda path: path.write_bytes(picture.png))
    return name


def _table(index: int, o: Observation, sinks: np.ndarray) -> pd.DataFrame:
    look = o.head["look"]
    layer, head, token = (axis.reshape(-1) for axis in np.indices(look.shape))
    at = np.array([p for run in o.prompt.image_runs for p in range(*run)])
    return pd.DataFrame({
        "prompt": np.full(look.size, index, np.int16), "layer": layer.astype(np.int16),
        "head": head.astype(np.int16), "token": at[token].astype(np.int32),
        "mass": look.reshape(-1).astype(np.float32), "sink": sinks[layer, token],
    })  # fmt: skip


def read_looks(folder: Path, head: tuple[int, int]) -> list[Look]:
    """Where one (layer, head) looks in the pictures of a run's evidence; empty without any.

    Raises:
        BadFile: damaged.
    """
    if not (folder / "looks.json").exists():
        return []
    where = [("layer", "==", head[0]), ("head", "==", head[1])]
    file = folder / "looks.parquet"
    table, _ = read_table(file, _Gallery, where)
    check_columns(file, table, whole=("prompt", "token"), numbers=("mass",), flags=("sink",))
    found = []
    for seen in read_json(folder / "looks.json", _Gallery).seen:
        mine = table[table["prompt"] == seen.prompt]
        mass = dict(zip(mine["token"].tolist(), mine["mass"].tolist(), strict=True))
        sinks = frozenset(mine["token"][mine["sink"]].tolist())
        for k, name in enumerate(seen.pictures):
            views = tuple(view for view in seen.views if view.picture == k)
            picture = Picture.open(folder / Path(name).name)
            found.append(Look(seen.prompt, picture, views, mass, sinks))
    return found
