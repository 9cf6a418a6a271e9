"""Features of autoencoders on the circuits page: the command line's numbers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from markupsafe import escape
from pages import text
from streamlit.testing.v1 import AppTest

from headscope.app import sae_tables
from headscope.app.dashboard import features, look, saes, shelf
from headscope.heads import HeadMap, keep_circuits
from headscope.heads.run import Manifest, Plan
from headscope.heads.storage import write_json
from headscope.probes import Circuit, Model, Recipe, load_sae

Open = Callable[..., AppTest]
FOUND = Path(__file__).parents[2] / "benchmarks" / "results" / "sparse_features_ioi.json"


def _markup(at: AppTest) -> str:
    """What the page's own components show."""
    data = [line for line in text(at).split("\n") if line.startswith('{"content"')]
    return "\n".join(json.loads(line)["content"] for line in data)


@pytest.fixture
def real(runs: Path) -> Callable[[str], str]:
    """A run of the default model that holds a circuit of features, and says that its model is at `source`."""

    def make(source: str) -> str:
        circuit = Circuit.open(FOUND)
        keep_circuits(runs / "real", [circuit], [])
        plan = Plan(
            model=source, fingerprint=circuit.fingerprint, geometry=circuit.geometry, dtype="float32",
            preset="quick", context=256, seed=0, recipe=Recipe(), haystack="", parts=(),
        )  # fmt: skip
        write_json(runs / "real" / "manifest.json", Manifest(plan=plan, status="done", started="2026"))
        return "real"

    return make


def test_a_circuit_of_features_leads_to_them(page: Open, real: Callable[[str], str]) -> None:
    at = page("circuits", run=real("nowhere"))
    shown = _markup(at)
    assert 'data-sae="smollm2/L23.z" data-feature="740">L23.z/f740' in shown and "L23.z/error" in shown
    assert "Choosing one loads the model" in text(at)


def test_a_model_that_cannot_be_loaded_leaves_the_command(page: Open, real: Callable[[str], str]) -> None:
    at = page("circuits", run=real("/nowhere/at/all"), sae="smollm2/L18.z", feature="3")
    assert 'class="hs-error"' in text(at) and "/nowhere/at/all" in text(at)
    assert "headscope sae show smollm2/L18.z --feature 3" in text(at)


@pytest.mark.parametrize("name", ["../other", "/etc", "smollm2/L18"])
def test_only_autoencoders_of_the_run_and_its_model_are_opened(
    page: Open, real: Callable[[str], str], name: str
) -> None:
    shown = text(page("circuits", run=real("nowhere"), sae=name))
    assert f"There is no sae &#39;{name}&#39;" in shown and "Choosing one loads the model" in shown


def test_without_any_the_command_that_trains_one_is_named(page: Open, runs: Path) -> None:
    shown = text(page("circuits", run="tiny"))
    assert "headscope sae train &#39;tiny &lt;b&gt;model&lt;/b&gt;&#39; --layer 0 --out" in shown
    (runs / "tiny" / "saes" / "m" / "L0.z").mkdir(parents=True)
    (runs / "tiny" / "saes" / "m" / "L0.z" / "cfg.json").write_text("{}")
    own = saes.known(shelf.find(runs, "tiny"), HeadMap.open(runs / "tiny"))
    assert list(own) == ["saes/m/L0.z"]


def test_texts_that_excite_a_feature_are_text(hostile: str) -> None:
    example = {"tokens": [" a", hostile, "b"], "activations": [0.0, -2.0, 1.0]}
    shown = features.pieces(example, (0, 1))
    assert [(p["token"], p["share"], p["peak"]) for p in shown] == [(hostile, 1.0, True), ("b", 0.5, False)]
    one = {"feature": 1, "frequency": 0.1, "heads": [], "raises": [{"token": hostile}], "examples": [shown]}
    listed = look.part("features", sae=hostile, features=[one])
    assert hostile not in listed and listed.count(escape(hostile)) == 3


@pytest.mark.model
def test_the_numbers_are_those_of_the_command_line(
    page: Open, real: Callable[[str], str], smollm2: Model
) -> None:
    at = page("circuits", run=real("smollm2"), sae="smollm2/L18.z", feature="740")
    shown = _markup(at)
    sae = load_sae("smollm2/L18.z", smollm2)
    one = sae_tables.described(smollm2, sae, 740, 10)
    for t in one["raises"] + one["lowers"]:
        assert f'<q>{escape(t["token"])}</q></td><td class="n" title="{t["effect"]!r}">' in shown
    for h in one["heads"]:
        assert f'{h["head"]}</button></td><td class="n" title="{h["share"]!r}">' in shown
    assert f"active on {one['frequency']:.3%} of {one['tokens_read']:,} tokens" in text(at)
    for listed in sae_tables.listing(smollm2, sae, 12):
        assert f'data-feature="{listed["feature"]}"' in shown
    at.button(key="feature1").click().run()
    assert at.query_params["feature"] == "741"
    at.query_params["feature"] = "99999"
    assert "feature is 99999, but the SAE has features 0 to 2303" in text(at.run())
