"""What features of sparse autoencoders are worth to a task, and what one passes on to another.

After sparse feature circuits (Marks et al. 2024, arXiv 2403.19647). At a site, x = sum of features +
error, so that a straight way from the counterfactual's features and error to the prompt's is a straight
way of x, and one gradient serves all of them. B prompts, T rows, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.probes.effects import measure
from headscope.probes.forward import Batch, answer_logits
from headscope.probes.saes.sae import Sae
from headscope.probes.saes.sites import Site, Tap, capture, tapped

if TYPE_CHECKING:
    from headscope.probes.model import Model


@dataclass(frozen=True)
class SiteEffects:
    """The effects of everything at one site, prompt by prompt, in nats of the log-odds.

    Attributes:
        features: of each feature. [B, F]
        error: of what the SAE misses, position 0 included, which it has not learnt. [B]
        parts: of each number of the site's activations; sums to features and error. [B, width]
        slope: the gradient, averaged over the way. [B, T, width]
        moved: features of the prompt less those of the counterfactual. [B, T, F]
        missed: the same of the error. [B, T, width]
    """

    features: Tensor
    error: Tensor
    parts: Tensor
    slope: Tensor
    moved: Tensor
    missed: Tensor


def site_effects(model: Model, batch: Batch, sae: Sae, steps: int) -> SiteEffects:
    """Integrated gradients of one site's features and error, everything else as on the prompt.

    Args:
        model: the model.
        batch: prompts with counterfactuals.
        sae: one that belongs to the model.
        steps: gradients to average, at 1/m, 2/m ... 1 of the way to the prompt; 1 is gradient ×
            activation.
    """
    site = sae.site
    x, twin = (capture(model, side.ids, [site])[site].float() for side in (batch, batch.twin(model)))
    places = [(i + 1) / steps for i in range(steps)]
    slope = torch.stack([_slope(model, batch, site, twin + t * (x - twin)) for t in places]).mean(0)
    with torch.no_grad():
        moved = features_of(sae, x) - features_of(sae, twin)
        missed = x - twin - moved @ sae.decoder.float()
        parts = ((x - twin) * slope).sum(1)
        features = (moved * (slope @ sae.decoder.float().T)).sum(1)
    return SiteEffects(features, (missed * slope).sum((1, 2)), parts, slope, moved, missed)


def features_of(sae: Sae, x: Tensor) -> Tensor:
    """Feature activations, none at position 0. [B, T, F]"""
    codes = sae.encode(x).float()
    return torch.cat([torch.zeros_like(codes[:, :1]), codes[:, 1:]], 1)


def _slope(model: Model, batch: Batch, site: Site, x: Tensor) -> Tensor:
    """The gradient of the log-odds, summed over prompts, where the site holds `x`. [B, T, width]"""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad(), tapped(model, {site: lambda _: leaf}):
        total = measure(answer_logits(model, batch.ids, batch.rows), batch.prompts)[0].sum()
        return torch.autograd.grad(total, leaf)[0]


@dataclass(frozen=True)
class Passed:
    """What nodes of earlier sites do through one node of a later site. `feature` None: its error.

    Attributes:
        site, feature: the later node.
        features: by earlier site, the effect of each of its features. [B, F]
        errors: by earlier site, that of its error. [B]
    """

    site: Site
    feature: int | None
    features: dict[Site, Tensor]
    errors: dict[Site, Tensor]


def passed_on(
    model: Model,
    batch: Batch,
    saes: Mapping[Site, Sae],
    effects: Mapping[Site, SiteEffects],
    targets: Sequence[tuple[Site, int | None]],
) -> Iterator[Passed]:
    """Effects along edges: gradient of the metric at the later node, times its gradient at the earlier.

    To first order at the prompt, through everything that lies between the two.

    Args:
        model: the model.
        batch: prompts with counterfactuals.
        saes: by site.
        effects: `site_effects` of the same batch, by site.
        targets: the later nodes.
    """
    held: dict[Site, Tensor] = {}

    def joined(site: Site) -> Tap:
        def tap(x: Tensor) -> Tensor:
            held[site] = x if x.requires_grad else x.detach().requires_grad_()
            return held[site]

        return tap

    with torch.enable_grad(), tapped(model, {site: joined(site) for site in saes}):
        model.decoder(input_ids=batch.ids, use_cache=False)
    for site, feature in targets:
        earlier = [s for s in saes if s.layer < site.layer]
        with torch.enable_grad():
            said = _says(saes[site], held[site].float(), effects[site].slope, feature)
            slopes = torch.autograd.grad(said, [held[s] for s in earlier], retain_graph=True)
        with torch.no_grad():
            found = dict(zip(earlier, (slope.float() for slope in slopes), strict=True))
            yield Passed(
                site, feature,
                {s: (effects[s].moved * (g @ saes[s].decoder.float().T)).sum(1) for s, g in found.items()},
                {s: (effects[s].missed * g).sum((1, 2)) for s, g in found.items()},
            )  # fmt: skip


def _says(sae: Sae, x: Tensor, slope: Tensor, feature: int | None) -> Tensor:
    """What the metric makes of one feature, or of the error, its slope held."""
    codes = features_of(sae, x)
    if feature is None:
        return ((x - codes @ sae.decoder.float()) * slope).sum()
    return (codes[..., feature] * (slope @ sae.decoder[feature].float())).sum()
