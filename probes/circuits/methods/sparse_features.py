"""Sparse feature circuits: features of autoencoders as nodes, and what they miss beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from headscope.probes.circuits.circuit import Cost, Edges, Node
from headscope.probes.circuits.features import SiteEffects, passed_on, site_effects
from headscope.probes.circuits.method import METHODS, Found, MethodSettings, Progress, of_effects
from headscope.probes.errors import HeadscopeError
from headscope.probes.estimate import over_prompts
from headscope.probes.forward import batches
from headscope.probes.prompts import Prompt
from headscope.probes.saes.sae import Sae, load_sae, shipped_saes
from headscope.probes.saes.sites import Site
from headscope.probes.screening import attribution_patching

if TYPE_CHECKING:
    from headscope.probes.model import Model

_Values = dict[str, list[NDArray[np.float64]]]


class FeatureSettings(MethodSettings):
    """Attributes:
    saes: folders or names of SAEs, one a site; those that come with headscope without.
    steps: gradients to average on the way from the counterfactual; 1 is gradient × activation.
    least: nats that a feature must be worth to be a node.
    edge: nats that an edge must carry.
    targets: features of each later site whose edges are traced, besides its error.
    """

    saes: tuple[str, ...] = ()
    steps: PositiveInt = 5
    least: NonNegativeFloat = 0.02
    edge: NonNegativeFloat = 0.005
    targets: NonNegativeInt = 12


@METHODS.register
class SparseFeatures:
    """The effect of every feature and of every error at the sites of some SAEs.

    Heads are scored by attribution patching, so that feature circuits stand beside the others; they are
    no part of the feature circuit. At a site, features and error together are worth what the site is.
    """

    name = "sparse-features"
    summary = "features of sparse autoencoders and their errors, by integrated gradients"
    source = "Marks et al. 2024 (arXiv 2403.19647)"
    baseline = False
    settings = FeatureSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        """For each SAE two partial passes and `steps` whole ones with gradients; then the edges and heads."""
        assert isinstance(settings, FeatureSettings)
        count = len(settings.saes or shipped_for(model))
        return Cost(
            forward=3 + count * (2 + settings.steps),
            backward=1 + count * settings.steps + max(0, count - 1) * (settings.targets + 1),
        )

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        assert isinstance(settings, FeatureSettings)
        names = settings.saes or tuple(shipped_for(model))
        if not names:
            raise HeadscopeError(f"There are no SAEs of {model.name!r}; name their folders in `saes`.")
        saes = {sae.site: sae for sae in (load_sae(name, model) for name in names)}
        heads = of_effects(attribution_patching(model, prompts))
        done, total = 0, len(saes) * len(prompts)
        effects: dict[Site, list[SiteEffects]] = {site: [] for site in saes}
        asked = list(batches(model, prompts))
        for site, sae in saes.items():
            for batch in asked:
                effects[site].append(site_effects(model, batch, sae, settings.steps))
                done += len(batch.prompts)
                progress(done, total)
        named = dict(zip(saes, names, strict=True))
        nodes = [n for site in saes for n in _nodes(site, effects[site], settings.least, named[site])]
        kept = {node.id for node in nodes}
        targets = _targets(nodes, saes, settings.targets)
        carried: _Values = {}
        for i, batch in enumerate(asked):
            for passed in passed_on(model, batch, saes, {s: effects[s][i] for s in saes}, targets):
                target = _name(passed.site, passed.feature)
                for site, error in passed.errors.items():
                    _keep(carried, f"{_name(site, None)} {target}", error)
                    for f in (int(n.rsplit("/f", 1)[1]) for n in kept if n.startswith(f"{site}/f")):
                        _keep(carried, f"{_name(site, f)} {target}", passed.features[site][:, f])
        return Found(
            (*heads.nodes, *nodes), _edges(carried, nodes, max(saes, key=lambda s: s.layer), settings.edge),
            clean=heads.clean, counterfactual=heads.counterfactual, note=_note(effects, settings),
        )  # fmt: skip


def shipped_for(model: Model) -> list[str]:
    """Names of the SAEs that come with headscope and belong to this model."""
    found = {name: load_sae(name).card for name in shipped_saes()}
    return [name for name, card in found.items() if card and card.fingerprint == model.fingerprint]


def _name(site: Site, feature: int | None) -> str:
    return f"{site}/error" if feature is None else f"{site}/f{feature}"


def _nodes(site: Site, effects: Sequence[SiteEffects], least: float, sae: str) -> list[Node]:
    """The features that are worth at least so much, largest first, and the error."""
    rows = np.concatenate([e.features.double().cpu().numpy() for e in effects])
    found, error = over_prompts(list(rows)), np.concatenate([e.error.double().cpu().numpy() for e in effects])
    order = [int(i) for i in np.argsort(-abs(found.value)) if abs(found.value[i]) >= least]
    missed = over_prompts(list(error))
    nodes = [
        _node(site, i, float(found.value[i]), float(found.se[i]), "feature", {"sae": sae, "feature": i})
        for i in order
    ]
    return [*nodes, _node(site, None, float(missed.value), float(missed.se), "error", {"sae": sae})]


def _node(
    site: Site, feature: int | None, value: float, se: float, kind: str, meta: dict[str, object]
) -> Node:
    return Node.model_validate(
        {"id": _name(site, feature), "kind": kind, "layer": site.layer, "score": value,
         "se": se if np.isfinite(se) else None, "meta": meta}
    )  # fmt: skip


def _targets(nodes: Sequence[Node], saes: dict[Site, Sae], count: int) -> list[tuple[Site, int | None]]:
    """The nodes whose edges are traced: the largest features and the error of all sites but the first."""
    first, found = min(site.layer for site in saes), list[tuple[Site, int | None]]()
    for site in (s for s in saes if s.layer > first):
        mine = [n.meta["feature"] for n in nodes if n.kind == "feature" and n.id.startswith(f"{site}/")]
        found += [(site, int(str(f))) for f in mine[:count]] + [(site, None)]
    return found


def _keep(carried: _Values, edge: str, values: Tensor) -> None:
    carried.setdefault(edge, []).append(values.double().cpu().numpy())


def _edges(carried: _Values, nodes: Sequence[Node], last: Site, least: float) -> Edges:
    """Edges that carry enough, largest first; the last site's nodes lead to the logits."""
    rows: list[tuple[str, str, float, float | None]] = []
    for edge, values in carried.items():
        found = over_prompts(list(np.concatenate(values)))
        if abs(float(found.value)) >= least:
            source, target = edge.split(" ")
            se = float(found.se)
            rows.append((source, target, float(found.value), se if np.isfinite(se) else None))
    rows += [(n.id, "logits", n.score, n.se) for n in nodes if n.id.startswith(f"{last}/")]
    rows.sort(key=lambda row: -abs(row[2]))
    return Edges(
        source=tuple(row[0] for row in rows), target=tuple(row[1] for row in rows),
        score=tuple(row[2] for row in rows), se=tuple(row[3] for row in rows),
    )  # fmt: skip


def _note(effects: dict[Site, list[SiteEffects]], settings: FeatureSettings) -> str:
    """How much of what each site is worth its error holds."""
    said = []
    for site, found in effects.items():
        whole = np.mean(np.concatenate([e.parts.sum(1).double().cpu().numpy() for e in found]))
        error = np.mean(np.concatenate([e.error.double().cpu().numpy() for e in found]))
        said.append(f"{site} is worth {whole:.3f} nats, of which its error {error:.3f}")
    return (
        f"{'; '.join(said)}. Features below {settings.least:g} nats and edges below {settings.edge:g} are "
        "left out; edges pass through everything between two sites, to first order. Heads: attribution."
    )
