"""Head outputs as discrete codes: a small autoencoder shared by all heads, and counting what is said.

After O'Neill & Bui 2024 (arXiv 2405.12522) and their published code. H heads, E examples, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Codebook:
    """c = ReLU(encoder (x - bias) + threshold); a vector's code is the feature most active on it.

    Attributes:
        encoder: rows of length 1. [F, width]
        threshold: [F]
        bias: subtracted before, added after. [width]
    """

    encoder: Tensor
    threshold: Tensor
    bias: Tensor

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The code of each vector, 0 where no feature is active. [..., width] to [...]"""
        return torch.relu((x - self.bias) @ self.encoder.T + self.threshold).argmax(-1)


def learn_codebook(
    x: Tensor,
    *,
    features: int,
    sparsity: float,
    epochs: int,
    rate: float,
    seed: int,
    precision: torch.dtype = torch.float32,
    step: Callable[[], object] = lambda: None,
) -> Codebook:
    """Train the autoencoder on all of `x` at once, every epoch.

    The loss is the mean squared error plus `sparsity` times the mean length (L1) of the codes. Both
    weights have rows of length 1, the decoder's along the features as in the published code, and their
    gradients no part along the row.

    Args:
        x: vectors to learn from. [N, width]
        features: F.
        sparsity: λ.
        epochs: steps of Adam.
        rate: its learning rate.
        seed: of the first weights.
        precision: of the matrix products; weights and sums are float32.
        step: called after every epoch.
    """
    width, random = x.shape[1], torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        bound = width**-0.5  # torch's own start of a linear layer
        return (torch.rand(shape, generator=random) * 2 - 1).mul(bound).to(x.device)

    encoder, decoder = (_unit(uniform(*shape)) for shape in ((features, width), (width, features)))
    weights = [encoder, decoder, uniform(features), torch.zeros(width, device=x.device)]
    adam, read = torch.optim.Adam(weights, lr=rate), x.to(precision)
    for _ in range(epochs):
        for weight, slope in zip(weights, slopes(x, read, weights, sparsity), strict=True):
            weight.grad = slope
        for row in (encoder, decoder):
            assert row.grad is not None
            row.grad -= (row.grad * row).sum(1, keepdim=True) * row
        adam.step()
        for row in (encoder, decoder):
            row.copy_(_unit(row))
        step()
    return Codebook(encoder, weights[2], weights[3])


def slopes(x: Tensor, read: Tensor, weights: Sequence[Tensor], sparsity: float) -> tuple[Tensor, ...]:
    """Gradients of the loss, by hand: five products, and no more passes over all of `x` than those.

    Args:
        x: vectors. [N, width]
        read: the same, in the precision of the products.
        weights: encoder [F, width], decoder [width, F], threshold [F], bias [width].
        sparsity: λ.
    """
    encoder, decoder, threshold, bias = weights
    number, width = x.shape
    codes = torch.relu((read @ encoder.to(read).T).float() + (threshold - encoder @ bias))
    short = codes.to(read)
    missed = ((short @ decoder.to(read).T).float() + (bias - x)).mul_(2 / (number * width))
    back = missed.to(read)
    above = (codes > 0) * ((back @ decoder.to(read)).float() + sparsity / number)
    each = above.sum(0)
    return (
        (above.to(read).T @ read).float() - each[:, None] * bias,
        (back.T @ short).float(),
        each,
        missed.sum(0) - each @ encoder,
    )


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def exclusive(positive: Codes, negative: Codes) -> tuple[Codes, Codes]:
    """How many different codes occur on positives and on no negative, and how many occur at all.

    Args:
        positive, negative: codes. [..., E]

    Returns:
        both counts. [...]
    """
    marked = np.concatenate([2 * positive, 2 * negative + 1], -1)
    marked.sort(-1)
    last = np.ones(marked.shape, dtype=bool)  # of the examples with one code; negatives sort behind
    last[..., :-1] = marked[..., 1:] // 2 != marked[..., :-1] // 2
    return (last & (marked % 2 == 0)).sum(-1), last.sum(-1)


def exclusive_pairs(positive: Codes, negative: Codes, features: int) -> tuple[Codes, Codes]:
    """`exclusive` for the joint codes of every pair of heads i < j; 0 elsewhere.

    Args:
        positive, negative: codes. [H, E]
        features: F.

    Returns:
        both counts. [H, H]
    """
    heads = len(positive)
    own, all_of_them = np.zeros((heads, heads), dtype=np.int64), np.zeros((heads, heads), dtype=np.int64)
    for i in range(heads - 1):
        joint = [codes[i] * features + codes[i + 1 :] for codes in (positive, negative)]
        own[i, i + 1 :], all_of_them[i, i + 1 :] = exclusive(*joint)
    return own, all_of_them


def appearances(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each head stands among the best pairs: H²/2 names, pair after pair, ties by position.

    This is how the published code makes scores of heads from scores of pairs.

    Args:
        score: of the pairs i < j. [H, H]
    """
    first, second = np.triu_indices(len(score), 1)
    order = np.argsort(-score[first, second], kind="stable")
    names = np.stack([first[order], second[order]], 1).ravel()[: len(score) ** 2 // 2]
    return np.bincount(names, minlength=len(score)).astype(float)


def information(positive: Codes, negative: Codes, features: int) -> NDArray[np.float64]:
    """Mutual information of a head's code and the class, in nats, less its bias for independent ones.

    The bias is (codes seen - 1) / 2E, to first order (Miller 1955), so that heads with many codes gain
    nothing by chance.

    Args:
        positive, negative: codes. [H, E]
        features: F.
    """
    found = np.zeros(len(positive))
    for h, both in enumerate(zip(positive, negative, strict=True)):
        joint = np.stack([np.bincount(codes, minlength=features) for codes in both]).astype(float)
        p = joint / joint.sum()
        apart = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
        seen = p > 0
        gain = (p[seen] * np.log(p[seen] / apart[seen])).sum()
        found[h] = gain - ((p.sum(0) > 0).sum() - 1) / (2 * joint.sum())
    return found
