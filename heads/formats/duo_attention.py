"""DuoAttention's folder: `full_attention_heads.tsv` and `config.json` (Xiao et al. 2024).

The table has a line per layer and a column per KV head; a gate near 1 asks for full attention.
Published gates are not clamped: tiny negative values are meant. The reader clips them, adds noise
below 1e-6 against ties, and lets the share `sparsity` of the lowest ones stream.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from headscope.heads.exchange import FORMATS, Exported, Format, Options
from headscope.heads.foreign import bad, is_number, member, read_foreign_json
from headscope.heads.headmap import ColumnInfo, HeadMap, Setting
from headscope.heads.imported import Content, Known, Score, per_query_head
from headscope.heads.losses import Loss
from headscope.heads.policy import Policy
from headscope.heads.scoretable import (
    SETTINGS,
    read_table_text,
    stream_share,
    table_of_map,
    table_of_policy,
    table_text,
    window_of,
)

TABLE, CONFIG = "full_attention_heads.tsv", "config.json"
GATE = ColumnInfo(
    about="trained gate between streaming (0) and full attention (1); one per KV group",
    low=None, high=None, source="DuoAttention, Xiao et al. 2024 (arXiv 2410.10819)",
)  # fmt: skip


def read(path: Path, known: Known) -> Content:
    """A folder with both files, or the table alone."""
    table = read_table_text(member(path, TABLE) if path.is_dir() else path)
    config = path / CONFIG if path.is_dir() else path.parent / CONFIG
    settings: Mapping[str, Setting] = {}
    if path.is_dir() or config.exists():
        settings = read_settings(member(config.parent, CONFIG))
    geometry = known.geometry(path, layers=table.shape[0], kv_heads=table.shape[1])
    model = known.model or Path(str(settings.get("model_name") or path.resolve().name)).name
    gates = Score(per_query_head(table, geometry), GATE)
    return Content(model, geometry, {"gate": gates}, settings=settings)


def read_settings(path: Path) -> dict[str, Setting]:
    """`config.json`: sink and recent size, and the training's other settings as they are."""
    found = read_foreign_json(path)
    if not isinstance(found, dict):
        bad(path, "does not hold named settings")
    for name, least in zip(SETTINGS, (0, 1), strict=True):
        value = found.get(name)
        if not is_number(value) or not isinstance(value, int) or value < least:
            bad(path, f"gives {name} as {value!r}; it must be a whole number of keys, {least} or more")
    plain = {n: v for n, v in found.items() if v is None or isinstance(v, str | bool) or is_number(v)}
    return dict(list(plain.items())[:256])


def from_map(headmap: HeadMap, path: Path, options: Options) -> Exported:
    """The scores of a map, with the settings they came with."""
    table, losses = table_of_map(headmap, options)
    window = window_of(headmap)
    sizes = {"sink_size": window.sink, "recent_size": window.recent}
    # An imported map's settings are its file's own; any other map says here what it is of.
    own = {"model_name": headmap.meta.model} if headmap.meta.fingerprint or not headmap.meta.settings else {}
    config = json.dumps(own | headmap.meta.settings | sizes)
    files = {TABLE: table_text(table), CONFIG: config}
    return Exported(files, (*losses, *map_losses()), _usage(path, stream_share(headmap)))


def from_policy(policy: Policy, path: Path, options: Options) -> Exported:
    """A table of ones and zeros with the share that finds them again."""
    table, window, share, losses = table_of_policy(policy)
    sizes = {"sink_size": window.sink, "recent_size": window.recent, "sparsity": share}
    config = json.dumps({"model_name": policy.model} | sizes)
    return Exported({TABLE: table_text(table), CONFIG: config}, losses, _usage(path, share))


def map_losses() -> tuple[Loss, ...]:
    """What every table of a map's scores leaves out."""
    return (Loss("Standard errors, labels and all other scores stay behind"),)


def _usage(path: Path, share: float) -> str:
    folder = repr(str(path))
    return (
        "from duo_attn.utils import load_attn_pattern, sparsify_attention_heads\n"
        "from duo_attn.patch import enable_duo_attention_eval\n"
        f"heads, sink, recent = load_attn_pattern({folder})\n"
        f"heads, sparsity = sparsify_attention_heads(heads, sparsity={share!r})\n"
        "enable_duo_attention_eval(model, heads, sink_size=sink, recent_size=recent)"
    )


FORMATS.add(
    Format(
        "duo-attention", "DuoAttention's gates: a table per KV head and config.json",
        read, from_map, from_policy, takes=("score",),
    )
)  # fmt: skip
