"""What single features stand for: the texts that excite them, what they do to the logits, who writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headscope.probes.errors import BadFile, HeadscopeError
from headscope.probes.files import first_fault, write_atomically
from headscope.probes.saes.corpus import Corpus
from headscope.probes.saes.sae import FEATURES, Sae
from headscope.probes.saes.stream import forward_rows, read

if TYPE_CHECKING:
    from headscope.probes.model import Model

BEFORE, AFTER = 10, 4
"""Tokens kept before and after the token that excites a feature most."""
_NOTHING = -1  # where a window ends before the surroundings do


@dataclass(frozen=True)
class Evidence:
    """The texts that excite each feature most, one from a window. F features, M texts, W tokens.

    Attributes:
        frequency: share of the tokens on which a feature is active. [F]
        mean: its activation where it is active; 0 for one that never is. [F]
        tokens: how many tokens were read.
        ids: token ids around the most exciting token, which stands at `BEFORE`; -1 beyond the
            window's ends. int32 [F, M, W]
        activations: the feature's activation on them. [F, M, W]
    """

    frequency: Tensor
    mean: Tensor
    tokens: int
    ids: Tensor
    activations: Tensor

    def save(self, folder: Path) -> None:
        """Write `features.safetensors`."""
        found = {
            "frequency": self.frequency, "mean": self.mean, "tokens": torch.tensor(self.tokens),
            "ids": self.ids.int(), "activations": self.activations.half(),
        }  # fmt: skip
        write_atomically(folder / FEATURES, lambda p: save_file(found, p))

    @classmethod
    def open(cls, folder: Path) -> Evidence:
        """Read what `save` wrote.

        Raises:
            BadFile: missing or damaged.
        """
        path = folder / FEATURES
        if not path.is_file():
            raise BadFile(f"{str(folder)!r} holds no {FEATURES}, so there are no examples to show.")
        try:
            found = load_file(path)
            frequency, mean, ids, activations = (
                found[n] for n in ("frequency", "mean", "ids", "activations")
            )
            if (
                ids.ndim != 3
                or ids.shape != activations.shape
                or {frequency.shape, mean.shape} != {ids.shape[:1]}
            ):
                raise ValueError("its tensors do not have one row for each feature")
            return cls(frequency, mean, int(found["tokens"]), ids.long(), activations.float())
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise BadFile(f"{str(path)!r} cannot be read: {first_fault(error)}.") from error


@torch.no_grad()
def evidence(model: Model, sae: Sae, corpus: Corpus, *, windows: int = 256, texts: int = 4) -> Evidence:
    """Find the texts that excite every feature most.

    Args:
        model: the model.
        sae: one that belongs to it.
        corpus: where to look, in windows learned from and held out alike.
        windows: how many, evenly spread.
        texts: how many for each feature, each from another window.
    """
    sae.check(model)
    every = np.arange(len(corpus.windows))
    chosen = every[np.linspace(0, len(every) - 1, min(windows, len(every))).round().astype(int)]
    count = torch.zeros(sae.features, dtype=torch.float64, device=model.device)
    total, tokens = count.clone(), 0
    best: tuple[Tensor, Tensor, Tensor] | None = None
    step = max(1, forward_rows(model, corpus.windows.shape[1]) // 4)
    for start in range(0, len(chosen), step):
        ids = corpus.ids(chosen[start : start + step]).to(model.device)
        found, kept = read(model, ids, [sae.site])
        codes = sae.encode(found[sae.site].float()) * kept[..., None]
        count += (codes != 0).sum((0, 1))
        total += codes.double().sum((0, 1))
        tokens += int(kept.sum())
        best = _merge(best, _top(ids, codes, texts), texts)
    assert best is not None
    return Evidence(
        (count / max(1, tokens)).float().cpu(), (total / count.clamp_min(1)).float().cpu(), tokens,
        best[1].cpu(), best[2].cpu(),
    )  # fmt: skip


def _top(ids: Tensor, codes: Tensor, texts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per feature the windows with the largest activations: those, ids and activations around. [F, M(, W)]"""
    length = ids.shape[1]
    peak, at = codes.abs().max(1)  # [B, F]
    value, window = peak.topk(min(texts, len(ids)), dim=0)  # [M, F]
    place = at.gather(0, window)
    around = place[..., None] + torch.arange(-BEFORE, AFTER + 1, device=ids.device)  # [M, F, W]
    inside = (around >= 0) & (around < length)
    clipped = around.clamp(0, length - 1)
    shown = ids[window[..., None], clipped].masked_fill(~inside, _NOTHING)
    feature = torch.arange(codes.shape[-1], device=ids.device)[None, :, None]
    active = codes[window[..., None], clipped, feature].masked_fill(~inside, 0.0)
    return value.T, shown.transpose(0, 1), active.transpose(0, 1)


def _merge(
    old: tuple[Tensor, Tensor, Tensor] | None, new: tuple[Tensor, Tensor, Tensor], texts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best of both, largest first."""
    if old is not None:
        new = (torch.cat([old[0], new[0]], 1), torch.cat([old[1], new[1]], 1), torch.cat([old[2], new[2]], 1))
    value, which = new[0].topk(min(texts, new[0].shape[1]), dim=1)
    wide = which[..., None].expand(-1, -1, new[1].shape[-1])
    return value, new[1].gather(1, wide), new[2].gather(1, wide)


@torch.no_grad()
def logit_effect(model: Model, sae: Sae, feature: int) -> Tensor:
    """What a feature adds to every token's logit over the average token, straight through the final norm.

    The direct path only: what later layers make of it is not in it. Its scale is that of the residual
    stream before the final norm divides by its length.

    Returns:
        float32 [vocabulary]

    Raises:
        HeadscopeError: no such feature.
    """
    direction = written(model, sae, feature).sum(0)
    ids = torch.arange(model.geometry.vocabulary, device=direction.device)
    return model.unembedding(ids).to(direction) @ direction


def written(model: Model, sae: Sae, feature: int) -> Tensor:
    """What a feature adds to the residual stream, head by head where it is written by heads. [parts, hidden]

    Raises:
        HeadscopeError: no such feature.
    """
    if not 0 <= feature < sae.features:
        raise HeadscopeError(f"feature is {feature}, but the SAE has features 0 to {sae.features - 1}.")
    direction = sae.decoder[feature].float()
    if sae.site.kind != "z":
        return direction[None]
    weight = model.output_weight(sae.site.layer).float().to(direction.device)
    if sae.site.head is not None:
        weight = weight[sae.site.head : sae.site.head + 1]
    return torch.einsum("hd,hdm->hm", direction.view(len(weight), -1), weight)


def head_shares(model: Model, sae: Sae) -> NDArray[np.float64]:
    """Which heads write each feature: norm of the decoder's slice of a head over the sum of all heads'.

    After Kissane et al. 2024 (arXiv 2406.17759). Rows sum to 1. [features, heads]

    Raises:
        HeadscopeError: a site at which the heads' outputs are mixed.
    """
    if sae.site.kind != "z":
        raise HeadscopeError(f"At {sae.site} the heads' outputs are mixed; only a 'z' SAE tells them apart.")
    heads = 1 if sae.site.head is not None else model.geometry.heads
    norms = sae.decoder.float().view(sae.features, heads, -1).norm(dim=-1)
    shares: NDArray[np.float64] = (norms / norms.sum(1, keepdim=True).clamp_min(1e-12)).double().cpu().numpy()
    return shares
