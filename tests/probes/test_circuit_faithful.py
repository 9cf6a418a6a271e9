"""Faithfulness curves against brute force, and methods against circuits that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from zoo import random_pairs, tiny

from headscope.probes import (
    PLANTED,
    Circuit,
    Edges,
    HeadId,
    HeadscopeError,
    Model,
    Pairs,
    attribution_patching,
    copying_circuit,
    copying_model,
    copying_prompts,
    discover,
    faithfulness,
    jaccard,
    load,
    precision,
    recall,
    roc_auc,
    stability,
    trials,
)
from headscope.probes.circuits.ablate import head_runs


def scored(model: Model, **options: Any) -> Circuit:
    return discover(model, "random", prompts=random_pairs(), **options)


def log_odds(model: Model, ids: tuple[int, ...], keep: dict[int, list[int]], other: list[Tensor]) -> float:
    """With all heads but those to keep replaced, straight in the projection's input."""
    hooks = []
    for layer in range(model.geometry.layers):

        def pre(_: Any, args: tuple[Tensor], layer: int = layer) -> tuple[Tensor]:
            z = args[0].clone().view(1, len(ids), model.geometry.heads, -1)
            for head in set(range(model.geometry.heads)) - set(keep.get(layer, [])):
                z[:, :, head] = other[layer].view_as(z)[:, :, head]
            return (z.flatten(-2),)

        hooks.append(model.output_projection(layer).register_forward_pre_hook(pre))
    with torch.no_grad():
        p = model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1)
    for hook in hooks:
        hook.remove()
    return float(torch.log(p[5] + p[7]) - torch.log(p[9]))


def head_inputs(model: Model, ids: tuple[int, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    hooks = [
        model.output_projection(i).register_forward_pre_hook(lambda _, args: found.append(args[0]))
        for i in range(model.geometry.layers)
    ]
    with torch.no_grad():
        model.hf(torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_a_circuit_of_heads_is_brute_force(ablation: Any) -> None:
    model = load(tiny("llama"))
    circuit = scored(model, method="attribution")
    curve = faithfulness(model, circuit, random_pairs(), ablation=ablation, sizes=(0.0, 0.3, 1.0))
    keep: dict[int, list[int]] = {}
    for head in circuit.top(curve.count[1]):
        keep.setdefault(head.layer, []).append(head.head)
    every, expected = {layer: list(range(6)) for layer in range(3)}, []
    for prompt in random_pairs():
        assert prompt.contrast is not None
        other = head_inputs(model, prompt.contrast.ids)
        other = [z * 0 for z in other] if ablation == "zero" else other
        expected.append([log_odds(model, prompt.ids[:-1], k, other) for k in ({}, keep, every)])
    found = (curve.nothing, curve.kept[1], curve.whole)
    assert found == pytest.approx(tuple(np.mean(expected, 0)), abs=1e-4)
    assert curve.f[0] == pytest.approx(0, abs=1e-6)
    assert curve.f[2] == pytest.approx(1, abs=1e-5)
    _, part, whole = np.array(expected).T
    spread = (part - part.mean() / whole.mean() * whole).std(ddof=1) / len(part) ** 0.5
    assert curve.kept_share_se == pytest.approx(
        (curve.kept_share_se[0], spread / abs(whole.mean()), 0.0), abs=1e-4
    )
    assert curve.cpr == pytest.approx(np.trapezoid(curve.f, [0, 0.3, 1]))
    assert curve.cmd == pytest.approx(np.trapezoid(np.abs(1 - np.array(curve.f)), [0, 0.3, 1]))


@pytest.mark.parametrize("ablation", ["counterfactual", "mean", "zero"])
def test_integrated_attribution_sums_to_what_ablating_everything_takes(ablation: Any) -> None:
    """Twice the sum of 200 steps less that of 100, since the error of a sum of m steps is near c / m."""
    model = load(tiny("llama"))

    def found(**settings: int) -> Circuit:
        return scored(model, method="attribution-ig", settings={"towards": ablation} | settings)

    curve = faithfulness(model, found(steps=1), random_pairs(), ablation=ablation, sizes=(1.0,))
    coarse, fine = (found(steps=n).heads()["score"].sum() for n in (100, 200))
    assert 2 * fine - coarse == pytest.approx(curve.whole - curve.nothing, abs=1e-3)
    assert found(steps=1).nodes == scored(model, method="attribution", settings={"towards": ablation}).nodes


def test_attribution_of_a_part_is_that_of_the_part() -> None:
    """With some heads ablated throughout, the others sum to what ablating them too takes away."""
    model, live = load(tiny("llama")), np.arange(18).reshape(3, 6) % 3 > 0
    rows = np.stack([live.ravel(), np.zeros(18, bool)])
    part, nothing = head_runs(model, random_pairs(), rows, "mean", lambda done, total: None).mean(1)
    coarse, fine = (
        attribution_patching(model, random_pairs(), towards="mean", steps=n, live=live).estimate().value
        for n in (100, 200)
    )
    assert -(2 * fine - coarse)[live].sum() == pytest.approx(part - nothing, abs=1e-3)


@pytest.mark.parametrize("ablation", ["counterfactual", "mean", "zero"])
@pytest.mark.parametrize("grain", ["heads", "edges"])
def test_everything_is_the_model_and_a_faithful_circuit_is_near_it(grain: Any, ablation: Any) -> None:
    model = load(tiny("llama"))
    circuit = scored(model, method="eap")
    curve = faithfulness(model, circuit, random_pairs(), grain=grain, ablation=ablation, sizes=(0, 0.5, 1))
    assert curve.whole == pytest.approx(circuit.clean, abs=1e-4)
    assert curve.f[0] == pytest.approx(0, abs=1e-3)
    assert curve.f[2] == pytest.approx(1, abs=1e-3)
    if (grain, ablation) == ("edges", "counterfactual"):
        assert curve.nothing == pytest.approx(circuit.counterfactual, abs=1e-4)


def test_what_cannot_be_tested_says_why() -> None:
    model = load(tiny("llama"))
    circuit = scored(model, method="attribution")
    with pytest.raises(HeadscopeError, match="'attribution' circuit scores no edges; use grain='heads'"):
        faithfulness(model, circuit, random_pairs(), grain="edges")
    with pytest.raises(HeadscopeError, match="There is no ablation 'noise'"):
        faithfulness(model, circuit, random_pairs(), ablation="noise")  # type: ignore[arg-type]
    with pytest.raises(HeadscopeError, match="they must ascend"):
        faithfulness(model, circuit, random_pairs(), sizes=(0.5, 0.1))


@pytest.mark.parametrize("sharpness", [1.0, 0.15], ids=["hard", "soft"])
@pytest.mark.parametrize("name", PLANTED)
def test_planted_circuits_are_found(name: str, sharpness: float) -> None:
    model, truth, prompts = copying_model(name, sharpness), copying_circuit(name), copying_prompts(4)
    assert trials(model, prompts).right.all()
    grades = {
        method: roc_auc(discover(model, "copying", method=method, prompts=prompts), truth)
        for method in ("patching", "attribution", "attribution-ig", "eap", "eap-ig")
    }
    assert grades["patching"] == 1.0
    assert min(grades.values()) >= 0.98, grades


def test_the_planted_heads_do_the_task_alone() -> None:
    model, truth, prompts = (
        copying_model("planted-llama"),
        copying_circuit("planted-llama"),
        copying_prompts(4),
    )
    circuit = discover(model, "copying", method="patching", prompts=prompts)
    curve = faithfulness(model, circuit, prompts, sizes=(len(truth) / 20,))
    assert curve.count == (len(truth),)
    assert curve.f[0] == pytest.approx(1, abs=1e-3)


def test_planted_edges_are_found() -> None:
    """Of all edges between heads and from heads to logits, the planted ones have the largest scores."""
    model, prompts = copying_model("planted-llama"), copying_prompts(4)
    circuit = discover(model, "copying", method="eap-ig", prompts=prompts)
    previous, back2, induction, copier = (
        str(HeadId(h.layer, h.head)) for h in sorted(copying_circuit("planted-llama"))
    )
    truth = {(head, "logits") for head in (induction, copier)} | {
        (writer, f"{reader.replace('H', 'G')}.k")
        for writer in (previous, back2)
        for reader in (induction, copier)
    }
    edges = circuit.edge_table()
    between = edges[edges["source"].str.startswith("L")]
    first = between.head(len(truth))
    assert set(zip(first["source"], first["target"], strict=True)) == truth


def test_grades() -> None:
    circuit = scored(load(tiny("llama")), method="attribution")
    best = circuit.top(5)
    assert roc_auc(circuit, best) == 1.0
    assert roc_auc(circuit, circuit.top(18)[5:]) == 0.0
    assert recall(circuit, best) == 1.0
    assert recall(circuit, best, 2) == 0.4
    assert precision(circuit, best, 10) == 0.5
    assert jaccard([best, best[:3]]) == pytest.approx(3 / 5)
    tied = scored(load(tiny("llama")), method="layer")
    assert roc_auc(tied, [HeadId(0, 0), HeadId(2, 0)]) == pytest.approx(0.5)
    with pytest.raises(HeadscopeError, match="The truth holds 0 of 18 heads"):
        roc_auc(circuit, [])


def test_stability_is_a_row_for_each_number_of_prompts() -> None:
    model, prompts = copying_model("planted-deep"), copying_prompts(10)
    found = stability(
        model, Pairs("copying", tuple(prompts)), ["attribution", "random"], counts=(2, 5, 99), seeds=(0, 1),
        truth=copying_circuit("planted-deep"), top=4,
    )  # fmt: skip
    assert found[["method", "prompts"]].to_numpy().tolist() == [
        ["attribution", 2], ["attribution", 5], ["random", 2], ["random", 5],
    ]  # fmt: skip
    exact = found[found["method"] == "attribution"]
    assert (exact["jaccard"] == 1).all()
    assert (exact["auc"] == 1).all()
    assert (exact["recall"] == 1).all()


def test_a_circuit_with_edges_of_its_own_is_refused_where_they_are_not_all() -> None:
    model = load(tiny("llama"))
    circuit = scored(model, method="eap")
    few = circuit.model_copy(
        update={"edges": Edges(source=("embed",), target=("logits",), score=(1,), se=(0,))}
    )
    with pytest.raises(HeadscopeError, match="scores 1 edges, not all"):
        faithfulness(model, few, random_pairs(), grain="edges")
