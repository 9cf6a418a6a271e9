"""A map by depth, so that models with other numbers of layers and heads can be laid side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from headscope.heads.headmap import HeadMap


def by_depth(headmap: HeadMap, column: str) -> pd.DataFrame:
    """One row per layer for a score or label column; NaN where no head of a layer has the score.

    Columns:
        layer, depth: the layer, and where it stands. depth 0 (first) ... 1 (last)
        mean: over the layer's heads; of a label, the share that has it.
        highest: the layer's highest head.

    Raises:
        UnknownName: the map has no such column.
    """
    grid = headmap.grid(column).astype(np.float64)
    layers = len(grid)
    return pd.DataFrame({
        "layer": np.arange(layers),
        "depth": np.arange(layers) / max(1, layers - 1),
        "mean": grid.mean(axis=1).to_numpy(),
        "highest": grid.max(axis=1).to_numpy(),
    })  # fmt: skip
