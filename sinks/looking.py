"""How much of a row lies on the picture, and how much of that on tokens that show nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headscope.probes import Estimate, Observation, over_prompts, text_tokens
from headscope.sinks.visual import FIRST_LAYER, standing_out, threshold

LEAST = 0.2  # with less image mass a row's ratio says nothing (Kang et al. 2025)


@dataclass(frozen=True)
class Looking:
    """Over prompts with a picture, in the rows that write the answer (or a spread of text rows).

    Attributes:
        image: mass on image tokens. 0 ... 1 [L, H]
        sink: mass on visual sinks. 0 ... 1 [L, H]
        nonsink: share of the image mass that is off visual sinks; NaN where the image mass is below
            0.2. 0 ... 1 [L, H]
        dims: the sink dimensions.
        tau: how huge they have to be; see `headscope.sinks.visual`.
    """

    image: Estimate
    sink: Estimate
    nonsink: Estimate
    dims: tuple[int, ...]
    tau: float


def looking(seen: Sequence[Observation], width: int) -> Looking:
    """Read it off observations of prompts with pictures.

    Args:
        seen: at least one, all with a picture.
        width: of the residual stream.
    """
    tau = threshold(width)
    votes = [
        d
        for o in seen
        for d in standing_out(o.layer["massive_dim"], o.layer["massive_size"], text_tokens(o.prompt), tau)
    ]
    dims = tuple(d for d in sorted(set(votes)) if 2 * votes.count(d) >= len(seen))
    image, sink, ratio = [], [], []
    for o in seen:
        look = o.head["look"].astype(np.float64)
        mass = look.sum(-1)
        rest = (look * visual_sinks(o, dims, tau)[:, None]).sum(-1)
        image.append(mass)
        sink.append(rest)
        ratio.append(np.where(mass >= LEAST, 1 - rest / np.maximum(mass, LEAST), np.nan))
    return Looking(over_prompts(image), over_prompts(sink), over_prompts(ratio), dims, tau)


def visual_sinks(seen: Observation, dims: Sequence[int], tau: float) -> NDArray[np.bool_]:
    """Which of a prompt's m image tokens are sinks, by each layer's input. [L, m]

    A dimension is looked at in the layers where it is among the largest of the text.
    """
    text = text_tokens(seen.prompt)
    size = seen.layer["massive_size"]
    above = size[..., ~text] - np.median(size[..., text], -1, keepdims=True) > tau
    found = (above & np.isin(seen.layer["massive_dim"], list(dims))[..., None]).any(1)
    found[:FIRST_LAYER] = False
    return np.asarray(found)
