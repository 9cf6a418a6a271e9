"""Discrete codes of head outputs: heads that say on the task's prompts what they say nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from headscope.probes.circuits.circuit import Cost, Edges
from headscope.probes.circuits.codes import (
    Codes,
    appearances,
    exclusive,
    exclusive_pairs,
    information,
    learn_codebook,
)
from headscope.probes.circuits.foreign import foreign
from headscope.probes.circuits.method import METHODS, Found, MethodSettings, Progress, head_nodes
from headscope.probes.circuits.writes import mean_writes
from headscope.probes.forward import batches
from headscope.probes.geometry import HeadId
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


class CodesSettings(MethodSettings):
    """The defaults are the published recipe.

    Attributes:
        negatives: `foreign`, prompts that do not do the task (see `foreign`), or the `counterfactual`s.
        rows: the mean over all rows, or the `last` one.
        scale: `none`; `one` number for all heads, so that vectors have a mean square of 1; `head`: the
            same after each head's mean is taken from it.
        examples: prompts and negatives together that the autoencoder learns from.
        features, sparsity, epochs, rate, precision: of the autoencoder; see `learn_codebook`.
        level: scores of heads from their own codes (`nodes`) or from the best pairs' (`edges`).
        score: `unique` codes; those as a `share` of all codes; or the `information` that a code gives
            about the class, for nodes only.
        members: autoencoders whose scores are averaged, each learnt from other examples.
        edges: how many of the best pairs are kept as edges, from the earlier layer to the later.
    """

    negatives: Literal["foreign", "counterfactual"] = "foreign"
    rows: Literal["all", "last"] = "all"
    scale: Literal["none", "one", "head"] = "none"
    examples: PositiveInt = 10
    features: PositiveInt = 200
    sparsity: NonNegativeFloat = 0.02
    epochs: PositiveInt = 500
    rate: PositiveFloat = 1e-3
    precision: Literal["float32", "bfloat16"] = "float32"
    level: Literal["nodes", "edges"] = "nodes"
    score: Literal["unique", "share", "information"] = "unique"
    members: PositiveInt = 1
    edges: PositiveInt = 1000


@METHODS.register
class SaeCodes:
    """Codes seen on the prompts and on no negative, counted head by head or pair by pair.

    The autoencoder learns from few examples; all of them are scored. Scores are counts (or shares, or
    nats), without a sign. The published softmax over heads changes no order and is left out.
    """

    name = "sae-codes"
    summary = "codes of head outputs that occur on the task's prompts alone"
    source = "O'Neill & Bui 2024 (arXiv 2405.12522)"
    baseline = False
    settings = CodesSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        """Two passes; the autoencoder's training is no pass of the model."""
        return Cost(forward=2)

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        assert isinstance(settings, CodesSettings)
        asked = foreign(prompts, seed) if settings.negatives == "foreign" else prompts
        return found_in(outputs(model, asked, settings.rows == "last"), settings, seed, progress)


def outputs(model: Model, prompts: Sequence[Prompt], last: bool = False) -> Tensor:
    """What heads add to the stream on prompts and on their counterfactuals. [2, P, L, H, hidden]"""
    g = model.geometry
    found = torch.empty(2, len(prompts), g.layers, g.heads, g.hidden, device=model.device)
    for batch in batches(model, prompts):
        for i, side in enumerate((batch, batch.twin(model))):
            found[i, batch.index] = mean_writes(model, side, last=last).to(found.device)
    return found


def found_in(x: Tensor, settings: CodesSettings, seed: int, progress: Progress) -> Found:
    """Score heads from their outputs on prompts and on negatives. [2, P, L, H, hidden]"""
    layers, heads = x.shape[2:4]
    x = scaled(x.flatten(2, 3), settings.scale)
    runs, pairs = list[NDArray[np.float64]](), np.zeros((layers * heads, layers * heads))
    done, total = 0, settings.members * settings.epochs

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    for member in range(settings.members):
        both = codes_of(x, settings, (seed, member), step)
        joint = joint_scores(both, settings)
        pairs += joint / settings.members
        runs.append(appearances(joint) if settings.level == "edges" else own_scores(both, settings))
    value = np.mean(runs, 0).reshape(layers, heads)
    error = np.std(runs, 0, ddof=1) / len(runs) ** 0.5 if len(runs) > 1 else None
    units = {"unique": "codes", "share": "share of codes", "information": "nats about the class"}
    unit = "places among pairs" if settings.level == "edges" else units[settings.score]
    return Found(
        head_nodes(value, None if error is None else error.reshape(layers, heads)),
        _edges(pairs, heads, settings.edges), unit=unit,
        note="Scores say that a head's codes tell prompts from negatives, not that the answer depends on it."
        " Errors are over autoencoders. Edges join heads by joint codes and say nothing of paths.",
    )  # fmt: skip


def codes_of(
    x: Tensor, settings: CodesSettings, seed: tuple[int, int], step: Callable[[], object] = lambda: None
) -> tuple[Codes, Codes]:
    """Codes of all heads on prompts and on negatives, of an autoencoder that saw a few of them.

    Args:
        x: head outputs, scaled. [2, P, H, hidden]
        settings: of the method.
        seed: of the run, and which of its autoencoders.
        step: called after every epoch.

    Returns:
        codes. [H, P] each
    """
    rng, every = np.random.default_rng(seed), x.flatten(0, 1)
    chosen = rng.choice(len(every), min(settings.examples, len(every)), replace=False)
    book = learn_codebook(
        every[chosen].flatten(0, 1), features=settings.features, sparsity=settings.sparsity,
        epochs=settings.epochs, rate=settings.rate, seed=int(rng.integers(2**31)),
        precision=getattr(torch, settings.precision), step=step,
    )  # fmt: skip
    positive, negative = (book.codes(side).T.cpu().numpy() for side in x)
    return positive, negative


def scaled(x: Tensor, scale: str) -> Tensor:
    """Head outputs as the autoencoder sees them; see `CodesSettings`. [2, P, H, hidden]"""
    if scale == "none":
        return x
    if scale == "head":
        x = x - x.mean((0, 1))
    return x / x.square().mean().sqrt().clamp_min(1e-12)


def _divided(counts: tuple[Codes, Codes], share: bool) -> NDArray[np.float64]:
    """Codes that only the positives have, or those over all codes."""
    own, every = counts
    return own / np.maximum(every, 1) if share else own.astype(float)


def joint_scores(both: tuple[Codes, Codes], settings: CodesSettings) -> NDArray[np.float64]:
    """Scores of pairs of heads i < j from their joint codes; 0 elsewhere. [H, H]"""
    return _divided(exclusive_pairs(*both, settings.features), settings.score == "share")


def own_scores(both: tuple[Codes, Codes], settings: CodesSettings) -> NDArray[np.float64]:
    """Scores of heads from their own codes. [H]"""
    if settings.score == "information":
        return information(*both, settings.features)
    return _divided(exclusive(*both), settings.score == "share")


def _edges(pairs: NDArray[np.float64], heads: int, count: int) -> Edges:
    """The best pairs of heads of different layers, best first."""
    first, second = np.triu_indices(len(pairs), 1)
    apart = first // heads < second // heads
    first, second = first[apart], second[apart]
    order = np.argsort(-pairs[first, second], kind="stable")[:count]

    def names(places: NDArray[np.int64]) -> tuple[str, ...]:
        return tuple(str(HeadId(int(i) // heads, int(i) % heads)) for i in places[order])

    score = tuple(float(f"{v:.6g}") for v in pairs[first[order], second[order]])
    return Edges(source=names(first), target=names(second), score=score, se=(None,) * len(order))
