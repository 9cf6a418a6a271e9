"""What streaming a KV group costs the answer: integrated gradients from full attention to streaming.

Every group's output is mixed, `alpha * full + (1 - alpha) * streaming`, as in DuoAttention (Xiao et al.
2024, arXiv 2410.10819), but nothing is trained: the gradient of the answer's log-probability with
respect to each alpha is averaged along the straight path from all 0 to all 1 (Sundararajan et al. 2017,
arXiv 1703.01365). The attributions of a prompt add up to what streaming everything costs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from headscope.heads.gates import frozen, gated
from headscope.heads.policy import Window
from headscope.probes import Estimate, HeadscopeError, Model, Prompt, attach, over_prompts

STEPS = 5


def streaming_loss(
    model: Model,
    prompts: Sequence[Prompt],
    window: Window,
    *,
    steps: int = STEPS,
    progress: Callable[[int], None] | None = None,
) -> Estimate:
    """Nats of answer log-probability that each KV group loses when it streams.

    Args:
        model: whose groups.
        prompts: prompts with answers, best those that the model answers right.
        window: what a streaming group keeps.
        steps: points on the path, midpoint rule.
        progress: called after each prompt with how many are done.

    Returns:
        Mean over prompts and its standard error. [L, Hkv] each

    Raises:
        HeadscopeError: no prompt has an answer.
    """
    asked = [p for p in prompts if p.answer]
    if not asked:
        raise HeadscopeError("None of the prompts has an answer, so nothing can be lost.")
    found = []
    with frozen(model):
        for done, prompt in enumerate(asked, 1):
            slopes = [_slope(model, prompt, window, (step + 0.5) / steps) for step in range(steps)]
            found.append(np.mean(slopes, 0))
            if progress:
                progress(done)
    return over_prompts(found)


def _slope(model: Model, prompt: Prompt, window: Window, alpha: float) -> NDArray[np.float64]:
    """d log p(answer) / d alpha at one point of the path. [L, Hkv]"""
    g = model.geometry
    mixture = torch.full((g.layers, g.kv_heads), alpha, device=model.device, requires_grad=True)
    ids = torch.tensor([prompt.ids], device=model.device)
    rows = torch.tensor(prompt.answer_rows, device=model.device)
    start, stop = prompt.answer or (1, 1)
    with torch.enable_grad(), attach(model, attend=gated(mixture, window.sink, window.recent)):
        logits = model.hf(input_ids=ids, use_cache=False, logits_to_keep=rows).logits[0].float()
        gain = logits.log_softmax(-1).gather(-1, ids[0, start:stop, None]).sum()
        (slope,) = torch.autograd.grad(gain, mixture, materialize_grads=True)
    return slope.double().cpu().numpy()
