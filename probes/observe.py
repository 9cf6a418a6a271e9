"""One prefill of one prompt, seen by every head: the `Observation` that all detectors read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.blind import divergence
from headscope.probes.errors import HeadscopeError
from headscope.probes.headrows import HeadRows, early_rows
from headscope.probes.massive import MassiveMeter
from headscope.probes.model import Model
from headscope.probes.prompts import Prompt
from headscope.probes.recipe import Recipe
from headscope.probes.residual import ResidualMeter, copied, residual_stream
from headscope.probes.seam import attach

PREFIX = 64  # rows of Sink_k^eps (Gu et al. 2024): the first 64 positions of natural text
_SHOWN = 16  # rows kept token by token where a prompt has no answer
_TOGETHER = 1 << 22  # numbers that are averaged at once


@dataclass(frozen=True)
class Observation:
    """What one prefill showed. L layers, H query heads, R exact rows, n tokens.

    Attributes:
        prompt: the labelled prompt.
        exact: statistics of the exact rows, row by row, named in `HeadRows`. [L, H, R, ...]
        rows: the exact rows: those that predict the answer, or an even spread without one. [R]
        mean: statistics averaged over the sampled rows. [L, H]
        var: variance of each mean due to sampling rows, with the finite-population correction;
            0 when all rows were taken. [L, H]
        head: further arrays per head (heaviest received keys, value norms, ...). [L, H, ...]
        layer: arrays per layer about the residual stream. [L, ...]

            Prompts that show a picture have more: `head["look"]`, the mass on each of m image tokens,
            mean over the exact rows [L, H, m]; `head["vhd"]` and `head["vhd_text"]`, see `divergence`, of
            the last row before the answer, the image removed [L, H]; `layer["massive_dim"]` and
            `layer["massive_size"]`, see `MassiveMeter`.
        predicted: the model's own greedy token at each answer row; empty without an answer.
        logprob: log-probability of each answer token.
    """

    prompt: Prompt
    exact: Mapping[str, NDArray[Any]]
    rows: NDArray[np.int64]
    mean: Mapping[str, NDArray[np.float32]]
    var: Mapping[str, NDArray[np.float32]]
    head: Mapping[str, NDArray[Any]]
    layer: Mapping[str, NDArray[Any]]
    predicted: NDArray[np.int64]
    logprob: NDArray[np.float32]

    @property
    def right(self) -> bool:
        """Whether greedy decoding would have produced the whole answer."""
        if self.prompt.answer is None:
            return False
        return tuple(self.predicted.tolist()) == self.prompt.ids[slice(*self.prompt.answer)]


def observe(model: Model, prompt: Prompt, recipe: Recipe | None = None) -> Observation:
    """Run `prompt` through `model` once and gather what every head did.

    Raises:
        HeadscopeError: the prompt is longer than the model's context, or has a token it lacks.
        Refused, DidNotFire: the model cannot be observed.
    """
    recipe = recipe or Recipe()
    _check_fits(model, prompt)
    n = len(prompt)
    sample = sample_rows(n, recipe.sample, f"{recipe.seed}:{prompt.key()}")
    exact = np.array(prompt.answer_rows or _spread(prompt))
    heads = HeadRows(model, prompt, torch.from_numpy(sample), torch.from_numpy(exact), recipe.watch, PREFIX)
    residual = ResidualMeter(moments=prompt.answer is None)
    inputs = model.inputs([prompt])
    asked = torch.tensor(prompt.answer_rows or [n - 1], device=model.device)
    massive = MassiveMeter(torch.from_numpy(text_tokens(prompt)))
    meters = (residual, massive) if prompt.pictures else (residual,)
    weights = _Weights.of(sample, n, model.device)
    with torch.no_grad(), residual_stream(model, *meters), attach(model, heads):
        logits = model.hf(**inputs, use_cache=False, logits_to_keep=asked).logits[0].float()
    # All that is to be worked out is asked for before the first number is waited for.
    found = heads.collect()
    mean, var = _average(found.sampled, weights)
    layer = residual.arrays()
    heads.check(found)
    predicted, logprob = _score(logits, prompt)
    if prompt.pictures:
        layer |= massive.arrays()
        found.head.update(_divergence(model, prompt, int(exact[0] if prompt.answer else n - 1)))
    return Observation(
        prompt, copied(found.exact), exact, copied(mean), copied(var),
        copied(found.head), layer, predicted, logprob,
    )  # fmt: skip


def text_tokens(prompt: Prompt) -> NDArray[np.bool_]:
    """Which tokens of a prompt are text, not image. [n]"""
    text = np.ones(len(prompt), bool)
    for start, stop in prompt.image_runs:
        text[start:stop] = False
    return text


def _spread(prompt: Prompt) -> NDArray[np.int64]:
    """Rows to show of a prompt without an answer: of its later half, or of the text after a picture."""
    n = len(prompt)
    start = prompt.image_runs[-1][1] if prompt.image_runs else n // 2
    return np.unique(np.linspace(min(start, n - 1), n - 1, _SHOWN).astype(int))


def _divergence(model: Model, prompt: Prompt, row: int) -> dict[str, Tensor]:
    found = divergence(model, prompt, [row])
    return {"vhd": found.vhd[..., 0], "vhd_text": found.text[..., 0]}


def sample_rows(n: int, count: int, seed: str) -> NDArray[np.int64]:
    """`count` of the rows 0 ... n - 1, sorted: all early ones, and a random draw of the others.

    Early rows see few keys and so are unlike the rest; a mean that happened to miss them, or to
    hit them, would have a misleading error bar. All rows if n <= count.
    """
    if n <= count:
        return np.arange(n)
    early = early_rows(count)
    digest = hashlib.sha256(seed.encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    late = generator.choice(np.arange(early, n), count - early, replace=False)
    return np.concatenate([np.arange(early), np.sort(late)])


def _check_fits(model: Model, prompt: Prompt) -> None:
    if model.geometry.context and len(prompt) > model.geometry.context:
        raise HeadscopeError(
            f"The prompt has {len(prompt)} tokens, but {model.name!r} was built for at most "
            f"{model.geometry.context}."
        )
    if max(prompt.ids) >= model.geometry.vocabulary:
        raise HeadscopeError(
            f"The prompt has token id {max(prompt.ids)}, but {model.name!r} knows only "
            f"{model.geometry.vocabulary}: it was made with another tokenizer."
        )


def _score(logits: Tensor, prompt: Prompt) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if prompt.answer is None:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    target = torch.tensor(prompt.ids[slice(*prompt.answer)], device=logits.device)
    logprob = logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]
    return logits.argmax(-1).cpu().numpy(), logprob.cpu().numpy()


@dataclass(frozen=True)
class _Weights:
    """What sampled rows stand for in an average over all rows, on the device of their statistics.

    A late row stands for (n - early) / (sampled late rows) rows, an early one for itself; only
    the late rows are a sample, so only they make the mean uncertain.
    """

    late: Tensor  # [R]
    weight: Tensor  # [R]
    missing: float  # share of the late rows that were not drawn

    @classmethod
    def of(cls, rows: NDArray[np.int64], n: int, device: torch.device | str = "cpu") -> _Weights:
        is_late = np.arange(len(rows)) >= early_rows(len(rows)) if len(rows) < n else np.zeros(n, bool)
        drawn, there = int(is_late.sum()), n - int((~is_late).sum())
        late = torch.from_numpy(is_late).to(device)
        weight = late.new_ones(len(rows), dtype=torch.float64).masked_fill(late, there / max(1, drawn))
        return cls(late, weight, 1.0 - drawn / max(1, there))


def _average(sampled: Mapping[str, Tensor], rows: _Weights) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean over all rows where a statistic is defined, and its variance from sampling them."""
    mean: dict[str, Tensor] = {}
    var: dict[str, Tensor] = {}
    one = next(iter(sampled.values()))
    step = max(1, _TOGETHER // max(1, one.numel()))  # a GPU would take longer to be asked for each alone
    for names in (list(sampled)[i : i + step] for i in range(0, len(sampled), step)):
        found = torch.stack([sampled[name] for name in names])
        values, defined = found.double(), found.isfinite()
        total = (defined * rows.weight).sum(-1)
        centre = _ratio((values.where(defined, 0.0) * rows.weight).sum(-1), total, torch.nan)
        noise = _late_variance(values, defined & rows.late)
        share = _ratio((defined * rows.weight * rows.late).sum(-1), total, 0.0)
        noise = share**2 * noise * rows.missing
        mean |= dict(zip(names, centre.float(), strict=True))
        var |= dict(zip(names, noise.float(), strict=True))
    return mean, var


def _late_variance(values: Tensor, late: Tensor) -> Tensor:
    """Variance of the mean of the late rows, the population taken as infinite."""
    count = late.sum(-1)
    centre = _ratio(values.where(late, 0.0).sum(-1), count, 0.0)
    spread = (values - centre[..., None]).where(late, 0.0)
    return _ratio((spread**2).sum(-1), (count - 1).clamp_min(1) * count.clamp_min(1), 0.0)


def _ratio(top: Tensor, bottom: Tensor, empty: float) -> Tensor:
    return (top / bottom).where(bottom > 0, empty)
