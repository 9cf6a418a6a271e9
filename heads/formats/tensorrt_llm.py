"""TensorRT-LLM: one attention window per layer and one number of sink tokens (`KvCacheConfig`).

Its window counts all tokens that a layer keeps, sinks included. There is no field for heads, so a layer
streams only as a whole.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from headscope.heads.exchange import FORMATS, Exported, Format, Options
from headscope.heads.losses import Loss, compute_loss, counted, per_layer
from headscope.heads.policy import Policy


def from_policy(policy: Policy, path: Path, options: Options) -> Exported:
    """`kv_cache_config` as YAML, for `--extra_llm_api_options`."""
    spans, losses = per_layer(policy, options.layers)
    g = policy.geometry
    whole = [w or g.context or 1 << 20 for w in g.windows]  # a window beyond the context keeps all
    sink = max((span.sink for span in spans if span), default=0)
    windows = [sink + span.recent if span else all_ for span, all_ in zip(spans, whole, strict=True)]
    fewer = sum(bool(span and span.sink < sink) for span in spans)
    if fewer:
        losses.append(
            Loss(f"All layers keep {sink} sink tokens, more than is needed by {counted(fewer, 'layer')}")
        )
    if sink and any(g.windows):
        losses.append(Loss(f"Layers with a sliding window of their own keep {sink} sink tokens too", None))
    text = f"kv_cache_config:\n  max_attention_window: {json.dumps(windows)}\n  sink_token_length: {sink}\n"
    usage = f"trtllm-serve MODEL --extra_llm_api_options {shlex.quote(str(path))}"
    return Exported({"": text}, (*losses, *compute_loss(policy)), usage)


FORMATS.add(
    Format(
        "tensorrt-llm", "TensorRT-LLM's window per layer and number of sink tokens",
        from_policy=from_policy, takes=("layers",),
    )
)  # fmt: skip
