"""Which heads to calibrate, chosen on some prompts and judged on others.

Choosing the best of hundreds of heads on a few prompts finds noise if there is nothing else, so
the choosing is nested: a first-order screen and the exact gain of each screened head alone on one
half of the prompts, the number of heads on the other half, and a sign-flip test there. What the
chosen heads are worth is for prompts to say that neither half contains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headscope.probes import (
    AttentionCall,
    AttentionEdit,
    HeadId,
    HeadscopeError,
    Model,
    Prompt,
    Rows,
    Settings,
    Spec,
    Variant,
    answer_tokens,
    answers,
    attach,
    edit_of,
    only,
)

SKIPPED = 2  # layers at the beginning that the published selection leaves out, as it does the last
_FLIPS = 10_000


@dataclass(frozen=True)
class Selection:
    """What was chosen, and on what grounds.

    Attributes:
        heads: best first.
        alone: gain of each screened head alone on the first half, nats per answer token.
        joint: gain of the chosen heads together on the second half. [prompts]
        p_value: share of random sign flips of `joint` whose mean is as large; 1 where there is none.
    """

    heads: tuple[HeadId, ...]
    alone: dict[HeadId, float]
    joint: NDArray[np.float64]
    p_value: float

    @property
    def sentence(self) -> str:
        n = len(self.joint)
        error = self.joint.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
        return (
            f"{len(self.heads)} of {len(self.alone)} screened heads; gain on the half that did not choose "
            f"them {self.joint.mean():+.4f} ± {error:.4f} nats per answer token over {n} prompts, "
            f"sign-flip p = {self.p_value:.3f}"
        )


def choose_heads(
    model: Model,
    prompts: Sequence[Prompt],
    method: str,
    settings: Settings,
    strength: float,
    screened: int,
    seed: int,
) -> Selection:
    """Choose the heads of an attention edit by what it does to the answers.

    Args:
        model: the model.
        prompts: with answers; at least 4, of which every other one chooses.
        method: name of the edit.
        settings: of the method.
        strength: at which it will be applied.
        screened: how many heads are tried exactly.
        seed: of the sign flips.

    Raises:
        HeadscopeError: too few prompts, or some without an answer.
    """
    if len(prompts) < 4 or any(p.answer is None for p in prompts):
        raise HeadscopeError(
            f"{method!r} chooses its heads on at least 4 prompts with answers, and got {len(prompts)}: "
            "name heads, or give more prompts."
        )
    g = model.geometry
    heads = [HeadId(a, b) for a in range(SKIPPED, max(g.layers - 1, 3)) for b in range(g.heads)]
    whole = Spec(
        method=method, heads=tuple(heads), strengths=(strength,) * len(heads), model=model.name,
        settings=settings.model_dump(mode="json"), fingerprint=model.fingerprint, geometry=g,
    )  # fmt: skip
    choosing, judging = prompts[::2], prompts[1::2]
    slope = np.mean([first_order(model, whole, p) for p in choosing], 0)
    tried = [heads[i] for i in np.argsort(-slope, kind="stable")[:screened]]
    gain = _gains(model, choosing, [only(whole, [h]) for h in tried]).mean(1)
    order = [tried[i] for i in np.argsort(-gain, kind="stable")]
    sizes = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= len(order)]
    joint = _gains(model, judging, [only(whole, order[:k]) for k in sizes])
    best = int(joint.mean(1).argmax())
    return Selection(
        tuple(order[: sizes[best]]), dict(zip(tried, gain.tolist(), strict=True)), joint[best],
        sign_flip(joint, seed),
    )  # fmt: skip


def sign_flip(gains: NDArray[np.float64], seed: int) -> float:
    """How often chance alone does as well as the best of several options.

    Under no effect a prompt's gains are as likely to have the other sign, all options together;
    the best mean over options is compared with the best under random signs, so that having had
    options is accounted for. 0 ... 1

    Args:
        gains: options x prompts.
        seed: of the signs.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (_FLIPS, gains.shape[1]))
    best = (signs @ gains.T / gains.shape[1]).max(1)
    return float((1 + (best >= gains.mean(1).max()).sum()) / (1 + _FLIPS))


def _gains(model: Model, prompts: Sequence[Prompt], specs: Sequence[Spec]) -> NDArray[np.float64]:
    """Rise of the answer's log-probability, nats per token. [specs, prompts]"""
    variants: list[Variant] = [(), *((s,) for s in specs)]
    logprob = answers(model, prompts, variants).logprob
    return logprob[1:] - logprob[0]


class _Slopes:
    """What an edit would change, and how much the answer would gain from it, to first order."""

    def __init__(self, spec: Spec, edit: AttentionEdit, prompt: int) -> None:
        self.spec, self.change, self.prompt = spec, edit, prompt
        self.changes: dict[int, Tensor] = {}

    def see(self, call: AttentionCall) -> None:
        if call.layer in self.spec.layers:
            at = torch.arange(call.q.shape[2], device=call.q.device)[None]
            rows = Rows(at, at >= 0, torch.tensor([self.prompt]))
            self.changes[call.layer] = self.change.attention(call, rows) - call.output


def first_order(model: Model, spec: Spec, prompt: Prompt) -> NDArray[np.float64]:
    """First-order gain of each head of an attention edit alone: gradient times change. [heads]

    One forward and one backward pass for all heads, nats per answer token.
    """
    edit = edit_of(model, spec)
    assert isinstance(edit, AttentionEdit)
    slopes = _Slopes(spec, edit, prompt.answer_rows[0] + 1)
    outputs: dict[int, Tensor] = {}

    def keep(layer: int) -> RemovableHandle:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            z = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            outputs[layer] = z
            return (z, *args[1:])

        return model.output_projection(layer).register_forward_pre_hook(hook)

    handles = [keep(layer) for layer in spec.layers]
    inputs = model.inputs([prompt])
    rows = torch.tensor(prompt.answer_rows, device=model.device)
    target = answer_tokens(model, prompt)[1]
    try:
        with torch.enable_grad(), attach(model, slopes):
            logits = model.hf(**inputs, use_cache=False, logits_to_keep=rows).logits[0].float()
            logprob = logits.log_softmax(-1).gather(-1, target[:, None]).mean()
            gradients = torch.autograd.grad(logprob, [outputs[layer] for layer in spec.layers])
    finally:
        for handle in handles:
            handle.remove()
    g, found = model.geometry, np.zeros(len(spec.heads))
    for layer, gradient in zip(spec.layers, gradients, strict=True):
        per_head = (gradient[0].unflatten(-1, (g.heads, -1)) * slopes.changes[layer][0]).sum((0, 2))
        for i in spec.of_layer(layer):
            found[i] = float(per_head[spec.heads[i].head])
    return found
