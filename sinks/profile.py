"""Extreme tokens, layer by layer: sinks, value drains and residual peaks on the same tokens.

Guo et al. 2024: attention concentrates on a token, the value states of that token are drained,
and its residual state peaks. The three go together and build up over the layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headscope.probes import Estimate, Observation, over_prompts
from headscope.sinks.dormancy import kinds

_SHOWN = 3


def layer_profile(seen: Sequence[Observation], decode: Callable[[Sequence[int]], list[str]]) -> pd.DataFrame:
    """One row per layer, from natural text (prose where there is some).

    Columns, each with a `_se` where it is a mean over texts:
        sink_mass: mean mass on the first token, over heads and sampled rows. 0 ... 1
        value_drain: norm of what the first token's value adds, over the median token's; below 1
            the first token is drained. Mean over heads.
        residual_peak: largest token norm of the layer's input over the median norm.
        peak_token: tokens with the largest norm, the most frequent first (text).
        peak_at: the positions of those tokens, most frequent first (text).
        peak_dims: the dimensions in which they peak (text).
        inf_norm: largest absolute entry of the layer's input (Bondarenko et al. 2023).
        kurtosis: of all entries of the layer's input; 3 for a Gaussian.
        median_norm: median token norm of the layer's input.
    """
    groups = kinds(seen)
    if not groups:
        return pd.DataFrame({"layer": np.zeros(0, np.int32)})
    texts = groups.get("prose") or next(iter(groups.values()))
    columns: dict[str, object] = {"layer": np.arange(len(texts[0].layer["inf_norm"]), dtype=np.int32)}
    measured = {
        "sink_mass": [o.mean["first_1"].mean(-1) for o in texts],
        "value_drain": [(o.head["value_norm_first"] / o.head["value_norm_median"]).mean(-1) for o in texts],
        "residual_peak": [o.layer["peak_norm"][:, 0] / o.layer["median_norm"] for o in texts],
        "inf_norm": [o.layer["inf_norm"] for o in texts],
        "kurtosis": [o.layer["kurtosis"] for o in texts],
        "median_norm": [o.layer["median_norm"] for o in texts],
    }
    for name, values in measured.items():
        estimate: Estimate = over_prompts(values)
        columns[name], columns[f"{name}_se"] = estimate.value, estimate.se
    columns |= _who(texts, decode)
    return pd.DataFrame(columns)


def _who(texts: Sequence[Observation], decode: Callable[[Sequence[int]], list[str]]) -> dict[str, list[str]]:
    """Which tokens, positions and dimensions carry the largest norms of each layer."""
    tokens, places, dims = [], [], []
    for layer in range(len(texts[0].layer["inf_norm"])):
        at = [o.layer["peak_token"][layer, :_SHOWN] for o in texts]
        ids = [o.prompt.ids[int(p)] for o, where in zip(texts, at, strict=True) for p in where]
        tokens.append(_most(decode(ids)))
        places.append(_most([str(int(p)) for where in at for p in where]))
        dims.append(_most([str(int(d)) for o in texts for d in _dims(o.layer["peak_dim"][layer])]))
    return {"peak_token": tokens, "peak_at": places, "peak_dims": dims}


def _dims(peak_dim: NDArray[np.generic]) -> NDArray[np.generic]:
    return peak_dim[:_SHOWN]


def _most(names: Sequence[str]) -> str:
    """The most frequent names, quoted so that blanks can be seen, ties in order of appearance."""
    return ", ".join(repr(name) for name, _ in Counter(names).most_common(_SHOWN))
