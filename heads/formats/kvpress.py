"""kvpress: a JSON file for its DuoAttentionPress, which otherwise downloads one of six tables.

The press takes no path, so the lines that use the file override the method that downloads. It masks
keys while decoding and frees no memory; prefill stays dense.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headscope.heads.exchange import FORMATS, Exported, Format, Options
from headscope.heads.formats.duo_attention import map_losses
from headscope.heads.headmap import HeadMap
from headscope.heads.losses import Loss
from headscope.heads.policy import Policy, Window
from headscope.heads.scoretable import stream_share, table_of_map, table_of_policy, window_of

_MEMORY = Loss("kvpress masks dropped keys and leaves prefill dense, so neither memory nor prefill is saved")


def from_map(headmap: HeadMap, path: Path, options: Options) -> Exported:
    """The scores of a map, and the share of groups that DuoAttention would let stream."""
    table, losses = table_of_map(headmap, options)
    share = stream_share(headmap)
    text = _text(table, window_of(headmap), share)
    return Exported({"": text}, (*losses, *map_losses(), _MEMORY), _usage(path))


def from_policy(policy: Policy, path: Path, options: Options) -> Exported:
    """Ones and zeros, and the share that finds them again."""
    table, window, share, losses = table_of_policy(policy)
    return Exported({"": _text(table, window, share)}, (*losses, _MEMORY), _usage(path))


def _text(table: NDArray[np.float64], window: Window, share: float) -> str:
    content = {
        "sink_size": window.sink,
        "recent_size": window.recent,
        "head_compression_ratio": share,
        "scores": np.clip(table, 0, 1).tolist(),
    }
    return json.dumps(content) + "\n"


def _usage(path: Path) -> str:
    pattern = "p['sink_size'], p['recent_size'], numpy.array(p['scores'])"
    return (
        f"import json, kvpress, numpy; p = json.load(open({str(path)!r}))\n"
        "kvpress.DuoAttentionPress.load_attention_pattern = staticmethod(lambda model: "
        f"({pattern}))\n"
        "press = kvpress.DuoAttentionPress(head_compression_ratio=p['head_compression_ratio'])"
    )


FORMATS.add(
    Format(
        "kvpress", "scores and sizes for kvpress' DuoAttentionPress",
        from_map=from_map, from_policy=from_policy, takes=("score",),
    )
)  # fmt: skip
