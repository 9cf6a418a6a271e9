"""Hand-made policies, and files that other programs published."""

from __future__ import annotations

import json
from pathlib import Path

from headscope.heads import Origin, Policy, Window
from headscope.probes import Geometry

DATA = Path(__file__).parent / "data"
LLAMA2 = DATA / "duo-attention" / "Llama-2-7B-32K-Instruct"
MISTRAL = DATA / "duo-attention" / "Mistral-7B-Instruct-v0.2"
MINFERENCE = DATA / "minference" / "Llama_3_8B_Instruct_262k_kv_out_v32_fit_o_best_pattern.json"
MOA = DATA / "moa" / "Llama-3.2-1B-Instruct.moa_alpha_beta.json"
W = Window(sink=64, recent=256)


def shape(
    layers: int = 3, heads: int = 6, kv_heads: int = 2, windows: tuple[int | None, ...] = ()
) -> Geometry:
    return Geometry(
        layers=layers, heads=heads, kv_heads=kv_heads, head_dim=8, value_dim=8, hidden=48, vocabulary=96,
        context=4096, windows=windows or (None,) * layers,
    )  # fmt: skip


def policy(
    rows: list[list[Window | None]],
    scores: list[list[float]] | None = None,
    by: str = "error",
    heads: int = 6,
    windows: tuple[int | None, ...] = (),
    compute: list[list[Window | None]] | None = None,
) -> Policy:
    """A policy whose KV groups keep `rows`."""
    g = shape(len(rows), heads, len(rows[0]), windows)
    reads = compute or [[row[g.kv_head(h)] for h in range(heads)] for row in rows]
    content = {
        "model": "toy", "geometry": g, "retain": rows, "compute": reads, "scores": scores,
        "origin": Origin(by=by),
    }  # fmt: skip
    return Policy.model_validate(content)


def write(path: Path, content: object) -> Path:
    """A JSON file."""
    path.write_text(json.dumps(content))
    return path
