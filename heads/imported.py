"""Head maps made of other programs' files, whose models are known only in part."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headscope.heads.foreign import bad, check_size
from headscope.heads.headmap import ColumnInfo, HeadMap, MapMeta, Setting
from headscope.heads.rules import Rule
from headscope.probes import Geometry


@dataclass(frozen=True)
class Known:
    """What the user knows of the model and the file may not say.

    Attributes:
        model: what to call the model.
        layers, heads, kv_heads: its shape, as far as known.
        like: the whole geometry, from a map of the same model.
    """

    model: str = ""
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    like: Geometry | None = None

    def geometry(self, path: Path, **found: int) -> Geometry:
        """The model's geometry: what the file says, completed by what is known; 0 where nobody knows.

        Args:
            path: the file, for the sentence.
            found: `layers`, `heads`, `kv_heads`, as far as the file tells.

        Raises:
            BadFile: the two contradict each other, or the number of layers or heads is nowhere.
        """
        said = {n: getattr(self, n) for n in ("layers", "heads", "kv_heads")}
        if self.like:
            said |= {n: getattr(self.like, n) for n in said}
        for name, value in found.items():
            if said[name] is not None and said[name] != value:
                words = name.replace("kv_heads", "KV heads")
                bad(path, f"has {value} {words}, but the model is said to have {said[name]}")
        shape = {n: found.get(n, v) for n, v in said.items()}
        layers = shape["layers"]
        heads = shape["heads"] or shape["kv_heads"]
        if not layers or not heads:
            bad(path, "does not say how many layers and heads the model has; give --layers and --heads")
        kv_heads = shape["kv_heads"] or heads
        if heads % kv_heads:
            bad(path, f"cannot be of a model whose {heads} query heads share {kv_heads} KV heads")
        check_size(path, layers, heads)
        return self.like or Geometry(
            layers=layers, heads=heads, kv_heads=kv_heads, head_dim=0, value_dim=0, hidden=0,
            vocabulary=0, context=0, windows=(None,) * layers,
        )  # fmt: skip


@dataclass(frozen=True)
class Score:
    """One score column.

    Attributes:
        values: one value per query head. [L, H]
        info: what they mean.
        se: their standard errors, where known. [L, H]
    """

    values: NDArray[np.float64]
    info: ColumnInfo
    se: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Content:
    """What a foreign file says.

    Attributes:
        model: what it calls the model.
        geometry: the model's shape.
        scores: score columns by name.
        notes: further columns that are no scores. [L, H] each
        rules: labels it implies.
        settings: what it says about all heads at once.
    """

    model: str
    geometry: Geometry
    scores: Mapping[str, Score]
    notes: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    rules: Sequence[Rule] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)


def to_headmap(content: Content, preset: str) -> HeadMap:
    """The content as an ordinary head map; `preset` names the format it came in."""
    g = content.geometry
    layer, head = (axis.reshape(-1).astype(np.int32) for axis in np.indices((g.layers, g.heads)))
    columns: dict[str, object] = {"layer": layer, "head": head}
    columns["kv_head"] = (head // g.group_size).astype(np.int32)
    for name, score in content.scores.items():
        columns[name] = score.values.reshape(-1)
        if score.se is not None:
            columns[f"{name}_se"] = score.se.reshape(-1)
    columns |= {name: note.reshape(-1) for name, note in content.notes.items()}
    frame = pd.DataFrame(columns)
    for rule in content.rules:
        frame[rule.column] = rule.apply(frame)
    meta = MapMeta(
        model=content.model, geometry=g, preset=preset, rules=tuple(content.rules),
        columns={name: score.info for name, score in content.scores.items()},
        versions={"headscope": importlib.metadata.version("headscope")},
        settings=dict(content.settings),
    )  # fmt: skip
    return HeadMap(frame, meta)


def per_query_head(groups: NDArray[np.float64], geometry: Geometry) -> NDArray[np.float64]:
    """Every query head gets its group's value. [L, Hkv] to [L, H]"""
    return np.repeat(groups, geometry.group_size, axis=1)
