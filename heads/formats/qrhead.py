"""QRHead: a list of query heads, best first, in a small YAML file (Zhang et al. 2025).

Read line by line as `name: "value"  # comment`, which is all that such files contain.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from headscope.heads.exchange import FORMATS, Exported, Format, Options
from headscope.heads.foreign import bad, head_id, read_text
from headscope.heads.headmap import ColumnInfo, HeadMap
from headscope.heads.imported import Content, Known, Score
from headscope.heads.losses import Loss
from headscope.heads.rules import Condition, Rule
from headscope.probes import HeadscopeError, unknown

_LINE = re.compile(r"""^(\w+):\s*(?:"([^"]*)"|'([^']*)'|([^#"']*?))\s*(?:\#.*)?$""")
_SOURCE = "QRHead, Zhang et al. 2025 (arXiv 2506.09944)"
_TOP = 16


def read(path: Path, known: Known) -> Content:
    """The list as places: 1 for the first of k heads, 1/k for the last, 0 for all others."""
    settings = _settings(path)
    listed = [head_id(path, name) for name in settings.get("attn_head_set", "").split(",") if name.strip()]
    if not listed:
        bad(path, 'has no line attn_head_set: "layer-head,layer-head,..."')
    if len(set(listed)) < len(listed):
        bad(path, "lists a head twice")
    geometry = known.geometry(path)
    for layer, head in listed:
        if layer >= geometry.layers or head >= geometry.heads:
            shape = f"{geometry.layers} layers of {geometry.heads} heads"
            bad(path, f"lists L{layer}H{head}, which a model of {shape} does not have")
    place = np.zeros((geometry.layers, geometry.heads))
    for i, at in enumerate(listed):
        place[at] = (len(listed) - i) / len(listed)
    info = ColumnInfo(about="place in a list: 1 for the first head, 0 for heads not on it", source=_SOURCE)
    last = Condition(column="qr_place", op=">=", threshold=1 / len(listed))
    rule = Rule(role="query_focused", score="qr_place", all_of=(last,), source=_SOURCE)
    model = known.model or settings.get("model_base_class") or path.stem
    return Content(
        model, geometry, {"qr_place": Score(place, info)}, rules=(rule,),
        settings={n: v for n, v in settings.items() if n != "attn_head_set"},
    )  # fmt: skip


def _settings(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for i, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line.strip())
        if not match:
            bad(path, f"has a line {i} that is not of the form name: value")
        name, *values = match.groups()
        found[name] = next(v for v in values if v is not None)
    return found


def from_map(headmap: HeadMap, path: Path, options: Options) -> Exported:
    """The best heads by a score: those that were on the imported list, else the first 16."""
    name = options.score or next((n for n in ("qr_place", "retrieval") if n in headmap.frame), None)
    if name is None:
        raise HeadscopeError(
            "This head map has no retrieval score to list heads by; name a score with --score."
        )
    if name not in headmap.meta.columns:
        raise unknown("score", name, headmap.meta.columns)
    count = int((headmap.frame[name] > 0).sum()) if name == "qr_place" else _TOP
    best = headmap.top(name, count)
    heads = ",".join(f"{i}-{j}" for i, j in zip(best["layer"], best["head"], strict=True))
    model = str(headmap.meta.settings.get("model_name_or_path", headmap.meta.model))
    lines = {
        "attn_head_set": heads,
        "model_base_class": str(headmap.meta.settings.get("model_base_class", Path(model).name)),
        "model_name_or_path": model,
    }
    text = "".join(f'{key}: "{_plain(value)}"\n' for key, value in lines.items())
    left = len(headmap.frame) - len(best)
    lost = (Loss(f"Only the order of the {len(best)} listed heads stays; {left} heads are not on the list"),)
    return Exported({"": text}, () if name == "qr_place" else lost, f"config = load_config({str(path)!r})")


def _plain(value: str) -> str:
    """A value that cannot end its quotes."""
    return re.sub(r'["\\\x00-\x1f]', "_", value)


FORMATS.add(Format("qrhead", "QRHead's list of the best query heads", read, from_map, takes=("score",)))
