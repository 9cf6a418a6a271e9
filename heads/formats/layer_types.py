"""`layer_types` of a Hugging Face configuration, which vLLM reads too: a layer is full or sliding.

One window size for all sliding layers, and no sinks. Only architectures that know `layer_types`
follow it (Qwen2, Qwen3, Gemma 3, gpt-oss, ...); Llama ignores it.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from headscope.heads.exchange import FORMATS, Exported, Format, Options
from headscope.heads.losses import Loss, compute_loss, counted, per_layer
from headscope.heads.policy import Policy
from headscope.probes import HeadscopeError


def from_policy(policy: Policy, path: Path, options: Options) -> Exported:
    """The part of `config.json` that says how far each layer sees.

    Raises:
        HeadscopeError: the model has sliding layers of another width already.
    """
    spans, losses = per_layer(policy, options.layers)
    own = {w for w in policy.geometry.windows if w}
    recent = max((span.recent for span in spans if span), default=0)
    if len(own) > 1 or (own and recent and own != {recent}):
        raise HeadscopeError(
            f"layer_types has one sliding window, but the model has {', '.join(map(str, sorted(own)))} "
            f"and the policy {recent or 'none'}."
        )
    narrow = sum(bool(span and span.recent < recent) for span in spans)
    if narrow:
        losses.append(
            Loss(f"The common window of {recent} keys is larger than that of {counted(narrow, 'layer')}")
        )
    sink = max((span.sink for span in spans if span), default=0)
    if sink:
        losses.append(Loss(f"The first {sink} tokens leave the window like any other", None))
    sliding = [bool(span or w) for span, w in zip(spans, policy.geometry.windows, strict=True)]
    fragment = {"layer_types": ["sliding_attention" if s else "full_attention" for s in sliding]}
    more = {"use_sliding_window": True, "sliding_window": recent or own.pop()} if any(sliding) else {}
    usage = (
        "# for architectures with sliding layers (Qwen2, Qwen3, Gemma 3, gpt-oss); Llama ignores it\n"
        f"config = AutoConfig.from_pretrained(MODEL, **json.load(open({str(path)!r})))\n"
        f'vllm serve MODEL --hf-overrides "$(cat {shlex.quote(str(path))})"'
    )
    text = json.dumps(fragment | more, indent=1) + "\n"
    return Exported({"": text}, (*losses, *compute_loss(policy)), usage)


FORMATS.add(
    Format(
        "layer-types", "full or sliding attention per layer, for Hugging Face and vLLM configurations",
        from_policy=from_policy, takes=("layers",),
    )
)  # fmt: skip
