"""Vision-aware head divergence: which heads a picture moves, and when (VHD and T-VHD, He et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headscope.probes import HeadscopeError, Picture, Refused, Spec, Stand, divergence, generate

if TYPE_CHECKING:
    from headscope.probes import Model

SOURCE = "VHD, He et al. 2025 (VHR, ACL 2025)"
_ROUNDING = 1e-4  # of a head's size: what two readings of one thing may differ by


def outliers(vhd: NDArray[np.floating], text: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Heads whose divergence says more about their size than about the picture.

    Those above the layer's mean by more than a standard deviation both in divergence and in the
    squared size of what they put out without the picture (the paper's filter).

    Args:
        vhd, text: as in `Divergence`, heads on the last axis. [..., H]
    """
    far = [a > a.mean(-1, keepdims=True) + a.std(-1, keepdims=True) for a in (vhd, text**2)]
    return np.asarray(far[0] & far[1])


def awareness(vhd: NDArray[np.floating], text: NDArray[np.floating]) -> NDArray[np.float64]:
    """VHD over the mean of the layer, 0 for outliers: 1 is an even share. 0 ... H. [..., H]

    VHR reinforces what is above the layer's median; over a median that is next to nothing, as where
    one head alone reads the picture, no number would mean anything. Heads that move by less than a
    ten-thousandth of their size count 0 too: in a layer that no picture has reached, rounding would
    have its favourites.
    """
    still = vhd <= _ROUNDING * text
    kept = np.where(still | outliers(vhd, text), 0.0, vhd).astype(np.float64)
    middle = kept.mean(-1, keepdims=True)
    return np.divide(kept, middle, out=np.zeros_like(kept), where=middle > 0)


@dataclass(frozen=True)
class Word:
    """One word that the model wrote.

    Attributes:
        text: the word.
        tvhd: T-VHD of its tokens, mean: how much the picture moved the heads while they were
            written. The lower, the more the word comes from the language model alone.
        tokens: how many tokens it has.
    """

    text: str
    tvhd: float
    tokens: int


def t_vhd(
    model: Model,
    text: str,
    pictures: Sequence[Picture],
    *specs: Spec,
    top: int = 4,
    stand: Stand = "removed",
    max_new_tokens: int = 64,
    chat: bool = True,
) -> list[Word]:
    """Let a model write about pictures, and say of every word how much it owes to them.

    T-VHD of a token is the sum over layers of the `top` largest VHDs in the row that writes it. It
    is a diagnostic: compare words of one text, not texts or models. The heads are compared in the
    untouched model, whatever wrote the text.

    Args:
        model: a vision-language model.
        text, pictures, chat, max_new_tokens: as for `generate`.
        specs: interventions to write under.
        top: heads a layer.
        stand: what stands in for the picture; see `divergence`.

    Raises:
        HeadscopeError: no pictures, nothing written, more heads than a layer has.
    """
    if model.vision is None:
        raise Refused(f"{model.name!r} reads text alone; T-VHD is about pictures.")
    if not 1 <= top <= model.geometry.heads:
        raise HeadscopeError(
            f"top is {top}; a layer of {model.name!r} has 1 to {model.geometry.heads} heads."
        )
    said = generate(model, text, *specs, pictures=pictures, max_new_tokens=max_new_tokens, chat=chat)
    if not said.strip():
        raise HeadscopeError(f"{model.name!r} wrote nothing about the picture.")
    prompt = model.vision.prompt(text, pictures, answer=said, chat=chat)
    found = divergence(model, prompt, prompt.answer_rows, stand)
    each = found.vhd.topk(top, dim=1).values.sum((0, 1)).cpu().tolist()
    start, stop = prompt.answer or (0, 0)
    return _words(model, prompt.ids[start:stop], each)


def _words(model: Model, ids: Sequence[int], each: Sequence[float]) -> list[Word]:
    """Tokens put together: a word begins where the text so far grows by a blank."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    groups: list[list[int]] = []
    for i in range(len(ids)):
        before, now = (str(tokenizer.decode(list(ids[:k]))) for k in (i, i + 1))
        grown = now[len(before) :]
        if not groups or grown[:1].isspace() or before[-1:].isspace():
            groups.append([])
        groups[-1].append(i)
    return [
        Word(
            str(tokenizer.decode([ids[i] for i in group])).strip(),
            float(np.mean([each[i] for i in group])),
            len(group),
        )
        for group in groups
    ]
