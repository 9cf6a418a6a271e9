"""Circuits as files and graphs, and the signature that all methods share."""

from __future__ import annotations

from pathlib import Path

import pytest
from zoo import random_pairs, tiny

from headscope.probes import (
    METHODS,
    BadFile,
    Circuit,
    Edges,
    HeadscopeError,
    Node,
    Refused,
    UnknownName,
    attribution_patching,
    discover,
    load,
    pairs,
)


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return discover(load(tiny("llama")), "random", method="attribution", prompts=random_pairs())


def test_a_circuit_survives_its_file(circuit: Circuit, tmp_path: Path) -> None:
    circuit.save(tmp_path / "c.json")
    assert Circuit.open(tmp_path / "c.json") == circuit
    (tmp_path / "c.json").write_text((tmp_path / "c.json").read_text()[:-40])
    with pytest.raises(BadFile, match="is not a valid Circuit"):
        Circuit.open(tmp_path / "c.json")


def test_scores_are_what_a_head_is_worth(circuit: Circuit) -> None:
    found = attribution_patching(load(tiny("llama")), random_pairs()).estimate()
    frame = circuit.heads()
    assert frame["score"].to_numpy() == pytest.approx(-found.value.ravel())
    assert frame["score_se"].to_numpy() == pytest.approx(found.se.ravel())
    assert circuit.cost.forward == 2
    assert circuit.cost.backward == 1
    assert abs(frame["score"]).max() == pytest.approx(
        abs(
            frame.set_index(["layer", "head"])["score"].loc[(circuit.top(1)[0].layer, circuit.top(1)[0].head)]
        )
    )


def test_edges_of_a_kv_group_reach_all_its_heads(circuit: Circuit) -> None:
    """Six query heads share two KV heads: three readers each."""
    edges = Edges(
        source=("embed", "L0H1", "M0"), target=("L1G1.k", "L2H0.q", "logits"), score=(1.0, -3.0, 2.0),
        se=(0.1, None, 0.0),
    )  # fmt: skip
    named = (*circuit.nodes, *(Node(id=i, kind="other", score=0) for i in ("embed", "M0", "logits")))
    graph = circuit.model_copy(update={"nodes": named, "edges": edges}).graph()
    assert set(graph.edges) == {
        ("embed", "L1H3"), ("embed", "L1H4"), ("embed", "L1H5"), ("L0H1", "L2H0"), ("M0", "logits"),
    }  # fmt: skip
    assert graph["embed"]["L1H4"] == {"score": 1.0, "k": 1.0}
    assert graph["M0"]["logits"] == {"score": 2.0}


def test_what_cannot_be_found_says_why() -> None:
    model = load(tiny("llama"))
    with pytest.raises(UnknownName, match=r"no circuit method 'atribution'\. Did you mean 'attribution'"):
        discover(model, "random", method="atribution", prompts=random_pairs())
    with pytest.raises(HeadscopeError, match="The settings of 'attribution' are not valid: steps"):
        discover(model, "random", method="attribution", prompts=random_pairs(), settings={"steps": 3})
    with pytest.raises(HeadscopeError, match="the list is empty"):
        discover(model, "random", method="attribution", prompts=[])


def test_a_circuit_belongs_to_its_model(circuit: Circuit) -> None:
    circuit.check(load(tiny("llama")))
    with pytest.raises(Refused, match="has other weights"):
        circuit.check(load(tiny("llama", seed=1)))


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_says_what_it_costs(method: str) -> None:
    model, found = load(tiny("llama")), METHODS[method]
    cost = found.cost(model, found.settings())
    assert cost.forward + cost.backward + cost.once >= 0
    assert found.summary
    assert found.source or found.baseline


@pytest.mark.model
def test_a_task_the_model_cannot_do_is_refused(smollm2: object) -> None:
    with pytest.raises(Refused, match=r"answers \d+% of 28 'choice' prompts right, less than the 50%"):
        pairs(smollm2, "choice", 4)  # type: ignore[arg-type]
    found = pairs(smollm2, "choice", 4, force=True)  # type: ignore[arg-type]
    assert len(found.prompts) == 4
    assert found.accuracy is not None
    assert found.accuracy < 0.5
