"""A made-up model with known scores, as a head map and as a whole run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from zoo import random_pairs, tiny

from headscope.app.dashboard.serve import RUNS
from headscope.heads import ColumnInfo, Condition, HeadMap, MapMeta, Rule, ShownPrompt, keep_circuits
from headscope.heads.evidence import Shown
from headscope.heads.storage import write_json, write_table
from headscope.probes import Geometry, discover, faithfulness, load

LAYERS, HEADS, KV = 6, 4, 2
MAIN = Path(__file__).parents[2] / "app" / "dashboard" / "main.py"
HOSTILE = "<script>window.hacked=1</script>"
TOKENS = (
    *("<s>", " The", " pass", "word", " is", " 7", "31", "9", "\n", HOSTILE, "\u202eabc", "\t"),
    *(f" word{i}" for i in range(60)),
    *(" What", " is", " it", "?", " 7", "31", "9"),
)

KINDS = ("prose", "code")
RULES = {
    "retrieval": ("retrieval", ">=", 0.5),
    "sink": ("sink", ">=", 0.3),
    "active_dormant": ("active_dormant", ">=", 0.2),
    "made_up": ("made_up", ">=", 0.9),  # a role no view has heard of
    "nobody": ("made_up", ">=", 2.0),  # a role no head has
}


def make_map(seed: int = 0) -> HeadMap:
    """Random scores, except that L2H1 retrieves."""
    rng = np.random.default_rng(seed)
    layer, head = (a.reshape(-1) for a in np.indices((LAYERS, HEADS)))
    frame = pd.DataFrame({"layer": layer, "head": head, "kv_head": head // (HEADS // KV)})
    scores = ["retrieval", "sink", "active_dormant", "made_up", *(f"sink_mass_{k}" for k in KINDS)]
    for name in scores:
        frame[name] = rng.random(len(frame)) * (0.4 if name == "retrieval" else 1.0)
        frame[f"{name}_se"] = rng.random(len(frame)) / 10
    frame.loc[(layer == 2) & (head == 1), "retrieval"] = 0.8765432109876543
    frame.loc[(layer == 0) & (head == 0), ["made_up", "made_up_se"]] = np.nan
    frame["wakes_on"] = ["code" if i % 2 else "" for i in range(len(frame))]
    rules = tuple(
        Rule(
            role=role,
            score=score,
            all_of=(Condition(column=score, op=op, threshold=t),),
            source="a paper & more",
        )
        for role, (score, op, t) in RULES.items()
    )
    for rule in rules:
        frame[rule.column] = rule.apply(frame)
    meta = MapMeta(
        model="tiny <b>model</b>",
        fingerprint="0123456789abcdef",
        preset="quick",
        seed=7,
        context=256,
        geometry=Geometry(
            layers=LAYERS,
            heads=HEADS,
            kv_heads=KV,
            head_dim=8,
            value_dim=8,
            hidden=32,
            vocabulary=100,
            context=512,
            windows=(None,) * LAYERS,
        ),
        tasks={"needle": 4, "prose": 2},
        accuracy={"needle": 0.75},
        rules=rules,
        columns={
            n: ColumnInfo(about=f"what {n} means", tasks=("needle",), prompts=3, source="someone")
            for n in scores
        },
        versions={"python": "3", "headscope": "0.1.0"},
    )
    return HeadMap(frame, meta)


def make_run(path: Path, seed: int = 0) -> Path:
    """A run folder as a scan leaves it, evidence with hostile tokens included."""
    headmap = make_map(seed)
    headmap.save(path / "headmap.parquet")
    layers = np.arange(LAYERS)
    table = pd.DataFrame(
        {
            "layer": layers,
            "sink_mass": layers / 10,
            "sink_mass_se": 0.01,
            "residual_peak": 10.0**layers,
            "residual_peak_se": 0.5,
            "peak_token": "'<b>'",
            "peak_dims": "'3', '7'",
            "new_measure": layers * 1.0,
        }
    )
    write_table(path / "layers.parquet", table, headmap.meta)
    prompts = (
        ShownPrompt(
            index=0,
            task="needle",
            kind="needle",
            tokens=TOKENS,
            spans={"needle": (1, 9), "value": (5, 8)},
            answer=(76, 79),
            right=True,
            rows=(75, 76, 77),
        ),
        ShownPrompt(index=1, task="prose", kind="prose", tokens=TOKENS[:20], rows=(12, 19)),
        ShownPrompt(index=2, task="code", kind="code", tokens=TOKENS[:20], rows=(12, 19)),
    )
    rows = [
        {"prompt": p.index, "layer": layer, "head": head, "row": row, "rank": rank, "key": key, "mass": mass}
        for p in prompts
        for layer in range(LAYERS)
        for head in range(HEADS)
        for row in p.rows
        for rank, (key, mass) in enumerate([(9, 0.5 + layer / 100), (5, 0.25), (0, 0.125), (row - 1, 0.001)])
    ]
    write_table(path / "evidence" / "rows.parquet", pd.DataFrame(rows), Shown(prompts=()))
    write_json(path / "evidence" / "prompts.json", Shown(prompts=prompts))
    return path


@pytest.fixture
def headmap() -> HeadMap:
    return make_map()


@pytest.fixture(name="make_run", scope="session")
def _make_run() -> Callable[..., Path]:
    return make_run


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "other", seed=1)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with two good runs, a damaged one, and links that lead out of it."""
    root = tmp_path / "runs"
    make_run(root / "tiny")
    make_run(root / "other", seed=1)
    (root / "broken").mkdir()
    (root / "broken" / "headmap.parquet").write_bytes(b"PAR1 not really")
    (root / "notes.txt").write_text("no run")
    make_run(tmp_path / "outside")
    (root / "way-out").symlink_to(tmp_path / "outside")
    make_run(root / "leaky")
    (root / "leaky" / "layers.parquet").unlink()
    (root / "leaky" / "layers.parquet").symlink_to(tmp_path / "outside" / "layers.parquet")
    return root


@pytest.fixture
def page(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Opens a page at an address."""
    monkeypatch.setenv(RUNS, str(runs))

    def open_page(name: str, **query: object) -> AppTest:
        at = AppTest.from_file(str(MAIN), default_timeout=30)
        for key, value in query.items():
            at.query_params[key.replace("at_", "at.").replace("__", ".")] = str(value)
        if name != "runs":
            at.switch_page(f"screens/{name}.py")
        at.run()
        assert not at.exception, at.exception
        return at

    return open_page


@pytest.fixture
def circuit_run(runs: Path) -> str:
    """A run that holds circuits of a tiny model, by two methods and a baseline."""
    model, prompts = load(tiny("llama")), random_pairs()
    found = [
        discover(model, "random", method=method, prompts=prompts)
        for method in ("eap", "attribution", "random")
    ]
    curves = [faithfulness(model, circuit, prompts) for circuit in found]
    keep_circuits(runs / "circuit", found, curves)
    return "circuit"
