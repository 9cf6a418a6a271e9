"""Sparse feature circuits: with SAEs that miss nothing, features are worth what their site is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from zoo import random_pairs, tiny

from headscope.probes import (
    HeadscopeError,
    Model,
    Sae,
    Site,
    attribution_patching,
    discover,
    load,
)
from headscope.probes.circuits.features import features_of, passed_on, site_effects
from headscope.probes.forward import Batch
from headscope.probes.saes.sites import capture, tapped

SITES = [Site(kind="z", layer=0), Site(kind="z", layer=2)]


@pytest.fixture(scope="module")
def model() -> Model:
    return load(tiny("llama"))


@pytest.fixture(scope="module")
def batch(model: Model) -> Batch:
    return Batch.of(model, random_pairs(), [0, 1])


def halves(site: Site, width: int, share: float = 1.0) -> Sae:
    """A ReLU SAE with a feature for each sign of each number, of which it gives back a share."""
    from sae_lens import StandardSAE, StandardSAEConfig

    inner, eye = StandardSAE(StandardSAEConfig(d_in=width, d_sae=2 * width)), torch.eye(width)
    with torch.no_grad():
        inner.W_enc.copy_(torch.cat([eye, -eye], 1))
        inner.W_dec.copy_(share * torch.cat([eye, -eye], 0))
        inner.b_enc.zero_()
        inner.b_dec.zero_()
    return Sae(inner, site)


def saes_of(model: Model, share: float = 1.0) -> dict[Site, Sae]:
    return {site: halves(site, site.width(model.geometry), share) for site in SITES}


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_features_and_error_are_worth_what_the_heads_are(model: Model, batch: Batch, share: float) -> None:
    exact = attribution_patching(model, batch.prompts).change[0]  # [P, L, H]
    for site, sae in saes_of(model, share).items():
        found = site_effects(model, batch, sae, steps=1)
        whole = -exact[:, site.layer].sum(1)
        assert (found.features.sum(1) + found.error).numpy() == pytest.approx(whole, rel=1e-3, abs=1e-6)
        assert found.features.sum(1).numpy() == pytest.approx(share * whole, rel=1e-3, abs=1e-6)
        assert found.parts.sum(1).numpy() == pytest.approx(whole, rel=1e-3, abs=1e-6)


def test_integrated_gradients_add_up_to_the_change(model: Model, batch: Batch) -> None:
    """Of putting the counterfactual's activations at the site, with steps enough."""
    from headscope.probes.effects import measure
    from headscope.probes.forward import answer_logits

    site, sae = next(iter(saes_of(model).items()))
    twin = capture(model, batch.twin(model).ids, [site])[site]
    with torch.no_grad():
        clean = measure(answer_logits(model, batch.ids, batch.rows), batch.prompts)[0]
        with tapped(model, {site: lambda _: twin}):
            put = measure(answer_logits(model, batch.ids, batch.rows), batch.prompts)[0]
    found = site_effects(model, batch, sae, steps=64)
    assert found.features.sum(1).numpy() == pytest.approx((clean - put).numpy(), rel=0.05, abs=1e-4)


def test_edges_are_derivatives(model: Model, batch: Batch) -> None:
    """What moves a later feature when the earlier site moves a little towards the counterfactual."""
    saes, small = saes_of(model), 1e-2
    effects = {site: site_effects(model, batch, sae, 1) for site, sae in saes.items()}
    early, late = SITES
    slope = effects[late].slope @ saes[late].decoder.T
    feature = int((effects[late].moved * slope).sum((0, 1)).abs().argmax())
    passed = next(passed_on(model, batch, saes, effects, [(late, feature)]))
    moved = effects[early].moved @ saes[early].decoder + effects[early].missed

    def says(step: float) -> torch.Tensor:
        with tapped(model, {early: lambda x: x + step * moved}):
            x = capture(model, batch.ids, [late])[late]
        return (features_of(saes[late], x)[..., feature] * slope[..., feature]).sum(1)

    change = (says(small) - says(-small)) / (2 * small)
    total = passed.features[early].sum(1) + passed.errors[early]
    assert total.detach().numpy() == pytest.approx(change.detach().numpy(), rel=0.02, abs=1e-6)


def test_a_circuit_has_features_errors_and_heads(model: Model, tmp_path: Path) -> None:
    for site, sae in saes_of(model, 0.5).items():
        sae.inner.cfg.metadata.hook_name = site.hook_name
        sae.inner.save_model(tmp_path / str(site))
    folders = [str(tmp_path / str(site)) for site in SITES]
    settings = {"saes": folders, "steps": 1, "least": 0.0, "edge": 0.0, "targets": 3}
    found = discover(model, "random", method="sparse-features", prompts=random_pairs(), settings=settings)
    kinds = [node.kind for node in found.nodes]
    assert kinds.count("head") == 18 and kinds.count("error") == 2 and kinds.count("feature") == 2 * 96
    worth = {node.id: node.score for node in found.nodes}
    layer = sum(worth[f"L2H{h}"] for h in range(6))
    assert sum(v for n, v in worth.items() if n.startswith("L2.z/")) == pytest.approx(layer, abs=1e-4)
    assert worth["L2.z/error"] == pytest.approx(layer / 2, abs=1e-4)
    assert {t for t in found.edges.target if t != "logits"} <= set(worth)
    assert len({t for t in found.edges.target if t != "logits"}) == 4
    assert np.isfinite(found.edges.score).all()


def test_without_saes_it_says_so(model: Model) -> None:
    with pytest.raises(HeadscopeError, match="There are no SAEs of"):
        discover(model, "random", method="sparse-features", prompts=random_pairs())
