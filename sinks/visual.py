"""Visual sinks: image tokens that draw attention without showing anything (Kang et al. 2025).

They carry the same massive activations as the text's sinks (VAR, arXiv 2503.03321). A token is a
sink in a layer if one of the sink dimensions D of the model is huge in the layer's input x:

    phi(x) = max_{d in D} (|x_d| / RMS(x) - level_d) > tau

`level_d` is the median of |x_d| / RMS(x) over text tokens. The paper leaves it out: in its models
it is next to nothing. Others (SmolLM2) have dimensions that are large in every token and larger in
sinks, and without it every token would be one. Since phi is at most sqrt(width), tau is said per
sqrt(width): the published 20 at width 4,096. D is found, not given: the dimensions that are huge,
in at least half of the layers, in a few of the text tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes import (
    TASKS,
    HeadscopeError,
    MassiveMeter,
    Model,
    Prompt,
    relative_size,
    residual_stream,
    text_tokens,
)

FACTOR = 20 / math.sqrt(4096)
FIRST_LAYER = 2  # what goes into the first two has no massive activations yet
_RARE = 0.25  # huge in more of the text (and in more than one token), it tells no sink from the rest
_TEXT = 64  # tokens of the text in which dimensions are looked for


def threshold(width: int, factor: float = FACTOR) -> float:
    """tau for a residual stream of `width` entries."""
    return factor * math.sqrt(width)


@dataclass(frozen=True)
class SinkDimensions:
    """D of a model, and what is usual there.

    Attributes:
        dims: the dimensions; empty where none stands out.
        level: their median size over text tokens, in each layer's input. [L, len(dims)]
        tau: how far above that a sink is.
    """

    dims: tuple[int, ...]
    level: tuple[tuple[float, ...], ...]
    tau: float
    _kept: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def sinks(self, layer: int, hidden: Tensor) -> Tensor:
        """Which tokens are sinks, by the input of a layer [..., n, d]; none in the first two. [..., n]"""
        if layer < FIRST_LAYER or not self.dims:
            return torch.zeros(hidden.shape[:-1], dtype=torch.bool, device=hidden.device)
        dims, least = self._on(layer, hidden)
        x = hidden.float()
        over = x.index_select(-1, dims).abs() > least * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return over[..., 0] if len(self.dims) == 1 else over.any(-1)

    def _on(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The dimensions, and the least share of a sink's norm there, moved to the device once."""
        at = layer, hidden.device
        if at not in self._kept:
            least = (torch.tensor(self.level[layer]) + self.tau) * hidden.shape[-1] ** -0.5
            self._kept[at] = torch.tensor(self.dims, device=at[1]), least.to(at[1])
        return self._kept[at]


def standing_out(
    dim: NDArray[np.int64], size: NDArray[np.float32], text: NDArray[np.bool_], tau: float
) -> tuple[int, ...]:
    """D, as one sequence shows it.

    Args:
        dim, size: as a `MassiveMeter` found them. [L, k], [L, k, n]
        text: which tokens are text. [n]
        tau: see `threshold`.
    """
    of_text = size[FIRST_LAYER:][..., text]
    huge = (of_text - np.median(of_text, -1, keepdims=True) > tau).sum(-1)
    few = (huge > 0) & (huge <= max(1, _RARE * of_text.shape[-1]))
    found, count = np.unique(dim[FIRST_LAYER:][few], return_counts=True)
    return tuple(int(d) for d in found[2 * count >= len(of_text)])


def find_dimensions(model: Model, prompts: Sequence[Prompt] = (), factor: float = FACTOR) -> SinkDimensions:
    """The sink dimensions of a model, read off the text tokens of prompts.

    Args:
        model: the model.
        prompts: what to read, the first four; a piece of prose without any.
        factor: tau over sqrt(width).

    Raises:
        HeadscopeError: no prompts, and no tokenizer to make some.
    """
    tau, shown = threshold(model.geometry.hidden, factor), list(prompts)[:4] or [_plain(model)]
    votes: dict[int, int] = {}
    for prompt in shown:
        text = text_tokens(prompt)
        meter = MassiveMeter(torch.from_numpy(text))
        _read(model, prompt, meter)
        seen = meter.arrays()
        for d in standing_out(seen["massive_dim"], seen["massive_size"], text, tau):
            votes[d] = votes.get(d, 0) + 1
    dims = tuple(sorted(d for d, count in votes.items() if 2 * count >= len(shown)))
    level = _Level(dims, torch.from_numpy(text_tokens(shown[0])))
    if dims:
        _read(model, shown[0], level)
    return SinkDimensions(dims, tuple(level.found), tau)


@dataclass
class _Level:
    """A meter for `residual_stream`: the median size of some dimensions over the text tokens."""

    dims: tuple[int, ...]
    text: Tensor

    def __post_init__(self) -> None:
        self.found: list[tuple[float, ...]] = []

    def see(self, hidden: Tensor) -> None:
        size = relative_size(hidden[0, self.text.to(hidden.device)])[:, list(self.dims)]
        self.found.append(tuple(size.median(0).values.tolist()))


def _read(model: Model, prompt: Prompt, meter: MassiveMeter | _Level) -> None:
    with residual_stream(model, meter):
        model.hf(**model.inputs([prompt]), use_cache=False, logits_to_keep=1)


def _plain(model: Model) -> Prompt:
    if model.tokenizer is None:
        raise HeadscopeError(
            f"{model.name!r} was loaded without a tokenizer, so there is no text with sinks in: give prompts."
        )
    length = min(_TEXT, model.geometry.context or _TEXT)
    return TASKS["prose"].prompts(model.tokenizer, lengths=[length], per_length=1, seed=0, haystack=None)[0]
