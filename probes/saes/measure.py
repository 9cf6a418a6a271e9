"""How good a sparse autoencoder is, on text it has not seen and without the tokens it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn.functional import cross_entropy

from headscope.probes.saes.corpus import Corpus
from headscope.probes.saes.sites import Tap, tapped
from headscope.probes.saes.stream import forward_rows, read

if TYPE_CHECKING:
    from headscope.probes.model import Model
    from headscope.probes.saes.sae import Sae


class Measured(BaseModel):
    """A number and its standard error over windows of text."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    value: float
    se: float

    @property
    def both(self) -> tuple[float, float]:
        """The number and its error."""
        return self.value, self.se


class SaeMetrics(BaseModel):
    """What was measured on held-out windows.

    Attributes:
        explained_variance: 1 - squared error / squared distance from the mean. At most 1.
        l0: active features per token.
        dead: share of the features that fired on none of `tokens`. 0 ... 1
        tokens: activations these come from.
        loss: cross-entropy of the untouched model in nats per token.
        loss_spliced: the same with every activation replaced by its reconstruction.
        loss_zeroed: the same with every activation replaced by zeros.
        recovered: (zeroed - spliced) / (zeroed - untouched): 1 is a perfect reconstruction, 0 no
            better than zeros. Coarse where the site matters little: look at the losses.
        loss_tokens: predictions the losses come from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    explained_variance: Measured
    l0: Measured
    dead: float
    tokens: int
    loss: Measured
    loss_spliced: Measured
    loss_zeroed: Measured
    recovered: Measured
    loss_tokens: int


@contextmanager
def spliced(model: Model, sae: Sae, *, where: Tensor | None = None, error: bool = False) -> Iterator[None]:
    """Let the model go on with the SAE's reconstruction of what its site holds.

    For passes over whole texts: under a cache position 0 could not be told apart.

    Args:
        model: the model.
        sae: one that belongs to it.
        where: which tokens to replace [B, T]; None for all but position 0, which SAEs do not learn.
        error: add what the SAE misses back, which changes nothing unless features are edited.

    Raises:
        Refused: an SAE of another model.
    """
    sae.check(model)

    def replace(x: Tensor) -> Tensor:
        found = sae.decode(sae.encode(x))
        return _put(x, found + (x - found) if error else found, where)

    with tapped(model, {sae.site: replace}):
        yield


def _put(x: Tensor, new: Tensor, where: Tensor | None) -> Tensor:
    """`x` with `new` in the rows `where` (None: all but the first). [B, T, width]"""
    if where is None:
        return torch.cat([x[:, :1], new[:, 1:].to(x.dtype)], 1)
    return torch.where(where[..., None].to(x.device), new.to(x.dtype), x)


def measure_sae(
    model: Model, sae: Sae, corpus: Corpus, *, windows: int = 64, spliced: int = 16
) -> SaeMetrics:
    """Measure an SAE on held-out windows.

    Args:
        model: the model.
        sae: one that belongs to it.
        corpus: whose held-out windows.
        windows: how many at most, evenly spread, for reconstruction and sparsity.
        spliced: how many of them for the losses.
    """
    chosen = _spread(corpus.held, windows)
    sums, fired = _reconstruction(model, sae, corpus, chosen)
    total = sums["n"].sum()
    mean = sums["x"].sum(0) / total
    around = sums["xx"] - 2 * sums["x"] @ mean + sums["n"] * float(mean @ mean)
    missed = _ratio(sums["error"], around)
    clean, put, zero = _losses(model, sae, corpus, _spread(chosen, spliced))
    return SaeMetrics(
        explained_variance=Measured(value=1 - missed.value, se=missed.se),
        l0=_ratio(sums["l0"], sums["n"]),
        dead=float((~fired).float().mean()),
        tokens=int(total),
        loss=_ratio(clean, np.ones_like(clean)),
        loss_spliced=_ratio(put, np.ones_like(put)),
        loss_zeroed=_ratio(zero, np.ones_like(zero)),
        recovered=_ratio(zero - put, zero - clean),
        loss_tokens=len(clean) * (corpus.windows.shape[1] - 1),
    )


def _spread(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of the windows, evenly spread."""
    return numbers[np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)]


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> Measured:
    """sum(a) / sum(b) over windows, its error by linearisation; the error is NaN for one window."""
    value, n = float(a.sum() / b.sum()), len(a)
    scatter = float(((a - value * b) ** 2).sum())
    se = (n / (n - 1) * scatter) ** 0.5 / abs(float(b.sum())) if n > 1 else float("nan")
    return Measured(value=value, se=se)


@torch.no_grad()
def _reconstruction(
    model: Model, sae: Sae, corpus: Corpus, chosen: NDArray[np.int64]
) -> tuple[dict[str, NDArray[np.float64]], Tensor]:
    """Sums over the kept tokens of each window, and which features fired anywhere."""
    parts: dict[str, list[Any]] = {"n": [], "x": [], "xx": [], "error": [], "l0": []}
    fired = torch.zeros(sae.features, dtype=torch.bool, device=model.device)
    step = max(1, forward_rows(model, corpus.windows.shape[1]) // 4)
    for start in range(0, len(chosen), step):
        found, kept = read(model, corpus.ids(chosen[start : start + step]), [sae.site])
        x = found[sae.site].float()
        codes = sae.encode(x)
        active = (codes != 0) & kept[..., None]
        missed = (x - sae.decode(codes)).square().sum(-1)
        rows = {
            "n": kept, "x": (x * kept[..., None]).sum(1), "xx": x.square().sum(-1) * kept,
            "error": missed * kept, "l0": active.sum(-1),
        }  # fmt: skip
        for name, value in rows.items():
            parts[name].append((value if name == "x" else value.double().sum(1)).double().cpu().numpy())
        fired |= active.flatten(0, 1).any(0)
    return {name: np.concatenate(values) for name, values in parts.items()}, fired


@torch.no_grad()
def _losses(
    model: Model, sae: Sae, corpus: Corpus, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.float64], ...]:
    """Mean loss in nats of each window: untouched, spliced, and zeroed where the SAE would be."""
    rows: tuple[list[float], ...] = ([], [], [])
    step = max(1, forward_rows(model, corpus.windows.shape[1]) // 8)
    for start in range(0, len(chosen), step):
        ids = corpus.ids(chosen[start : start + step]).to(model.device)
        _, kept = read(model, ids, [sae.site])
        taps: tuple[Tap, ...] = (
            lambda x: None,
            lambda x, k=kept: _put(x, sae.decode(sae.encode(x)), k),  # type: ignore[misc]
            lambda x, k=kept: _put(x, torch.zeros_like(x), k),  # type: ignore[misc]
        )
        for found, tap in zip(rows, taps, strict=True):
            with tapped(model, {sae.site: tap}):
                logits = model.hf(input_ids=ids, use_cache=False).logits[:, :-1].float()
            loss = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
            found += loss.double().mean(1).tolist()
    return tuple(np.array(values) for values in rows)
