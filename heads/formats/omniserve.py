"""OmniServe (LServe): DuoAttention's folder, with the sizes given on the command line instead."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from headscope.heads.exchange import FORMATS, Exported, Format, Options
from headscope.heads.formats import duo_attention
from headscope.heads.headmap import HeadMap
from headscope.heads.losses import Loss
from headscope.heads.policy import Policy, Window
from headscope.heads.scoretable import stream_share, table_of_policy, window_of

PAGE = 64  # tokens; while decoding, windows are whole pages


def from_map(headmap: HeadMap, path: Path, options: Options) -> Exported:
    """The scores of a map; half of the KV groups (3/4 without grouping) stream, as in its examples."""
    made = duo_attention.from_map(headmap, path, options)
    return _served(made, path, window_of(headmap), stream_share(headmap))


def from_policy(policy: Policy, path: Path, options: Options) -> Exported:
    """Ones and zeros, with the policy's own share."""
    _, window, share, _ = table_of_policy(policy)
    return _served(duo_attention.from_policy(policy, path, options), path, window, share)


def _served(made: Exported, path: Path, window: Window, share: float) -> Exported:
    pages = Window(sink=_pages(window.sink), recent=_pages(window.recent))
    losses = made.losses
    if pages != window:
        text = f"While decoding, the windows are whole pages of {PAGE}: {pages.sink} + {pages.recent} keys"
        losses = (*losses, Loss(text))
    flags = {
        "--static-sparse-attn-load-dir": shlex.quote(str(path)),
        "--static-sparsity": repr(share),
        "--sparse-context-mode": "",
        "--ctx-sink-token": window.sink,
        "--ctx-local-token": window.recent,
        "--dec-sink-token": pages.sink,
        "--dec-local-token": pages.recent,
        "--sparse-decode-mode": 0,  # 1 would also skip pages of the heads that keep everything
    }
    line = " ".join(f"{name} {value}".rstrip() for name, value in flags.items())
    # How many pages each pool has is a matter of memory; these are the numbers of its own examples.
    return replace(
        made, losses=losses,
        usage=f"NUM_RETRIEVAL_GPU_PAGE_BLOCKS=3000 NUM_STREAMING_GPU_PAGE_BLOCKS=200 \\\n"
        f"python lserve_e2e_generation.py --model MODEL {line}",
    )  # fmt: skip


def _pages(keys: int) -> int:
    return -(-keys // PAGE) * PAGE


FORMATS.add(
    Format(
        "omniserve", "DuoAttention's folder and the flags with which OmniServe reads it",
        duo_attention.read, from_map, from_policy, takes=("score",),
    )
)  # fmt: skip
