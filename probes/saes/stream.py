"""Activations of a corpus, shuffled through a buffer whose size is all the memory they take.

Left out on purpose: position 0, and every token whose residual stream is more than ten times as long
as the median token's. Both are where attention rests and massive activations live (Sun et al. 2024,
arXiv 2402.17762): a few vectors of enormous norm that would rule the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.saes.corpus import Corpus
from headscope.probes.saes.sites import Site, capture

if TYPE_CHECKING:
    from headscope.probes.model import Model

MASSIVE = 10.0
"""Times the median norm of the residual stream from which a token counts as a sink."""
_FORWARD_CPU, _FORWARD_GPU = 2048, 65536  # tokens that go through the model together


def read(model: Model, ids: Tensor, sites: Sequence[Site]) -> tuple[dict[Site, Tensor], Tensor]:
    """What the sites hold, and which tokens are no sinks.

    Args:
        model: the model.
        ids: token ids. [B, T]
        sites: where to read.

    Returns:
        activations, [B, T, width] each, in the model's precision; and where to look: False at
        position 0 and wherever the residual stream is massive at the layer of some site. [B, T]
    """
    layers = sorted({site.layer for site in sites})
    streams = [Site(kind="resid", layer=layer) for layer in layers]
    found = capture(model, ids, list(dict.fromkeys([*sites, *streams])))
    kept = torch.ones(ids.shape, dtype=torch.bool, device=model.device)
    kept[:, 0] = False
    for stream in streams:
        norms = found[stream].float().norm(dim=-1).to(kept.device)
        kept &= norms <= MASSIVE * norms.median()
    return {site: found[site] for site in sites}, kept


def forward_rows(model: Model, context: int) -> int:
    """Windows that go through the model together."""
    return max(1, (_FORWARD_CPU if model.device.type == "cpu" else _FORWARD_GPU) // context)


@dataclass
class Stream:
    """Shuffled batches of activations, the same ones for the same seed wherever one begins.

    A buffer is filled with whole windows drawn from all over the corpus, shuffled, and served to the
    end before the next is filled; what does not make a batch is left out.

    Attributes:
        model, corpus, sites: what is read where.
        rows: activations the buffer holds at most.
        batch: activations of a batch.
        seed: of the windows' order and of the shuffles.
        seen, dropped: tokens that went through the model, and sinks among them beyond position 0.
    """

    model: Model
    corpus: Corpus
    sites: Sequence[Site]
    rows: int
    batch: int
    seed: int
    seen: int = field(default=0)
    dropped: int = field(default=0)

    @property
    def windows(self) -> int:
        """Windows of one buffer."""
        return max(1, self.rows // (self.corpus.windows.shape[1] - 1))

    def fill(self, number: int) -> dict[Site, Tensor]:
        """The shuffled content of the buffer's `number`-th filling. [n <= rows, width], float32 each"""
        drawn = self._drawn(number)
        step = forward_rows(self.model, self.corpus.windows.shape[1])
        parts: dict[Site, list[Tensor]] = {site: [] for site in self.sites}
        for start in range(0, len(drawn), step):
            ids = self.corpus.ids(drawn[start : start + step])
            found, kept = read(self.model, ids, self.sites)
            self.seen += ids.numel()
            self.dropped += ids.numel() - len(ids) - int(kept.sum())
            for site, x in found.items():
                parts[site].append(x[kept.to(x.device)].float())
        order = torch.from_numpy(np.random.default_rng((self.seed, 1, number)).permutation(_rows(parts)))
        # One site after another, so that only one of them exists twice for a moment.
        return {site: torch.cat(parts.pop(site))[order] for site in list(parts)}

    def _drawn(self, number: int) -> NDArray[np.int64]:
        """Which windows the `number`-th filling reads: every window once before any comes again."""
        count = len(self.corpus.learned)
        at = np.arange(number * self.windows, (number + 1) * self.windows)
        rounds = {int(r): self._order(int(r)) for r in np.unique(at // count)}
        return np.array([self.corpus.learned[rounds[i // count][i % count]] for i in at.tolist()])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.corpus.learned))

    def batches(self, filled: dict[Site, Tensor]) -> Iterator[dict[Site, Tensor]]:
        """The batches of one filling."""
        for i in range(len(next(iter(filled.values()))) // self.batch):
            rows = slice(i * self.batch, (i + 1) * self.batch)
            yield {site: x[rows] for site, x in filled.items()}


def _rows(parts: dict[Site, list[Tensor]]) -> int:
    return sum(len(x) for x in next(iter(parts.values())))
