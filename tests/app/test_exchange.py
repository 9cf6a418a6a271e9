"""Exporting and importing on the command line, and imported maps in every command that shows maps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from formats_zoo import LLAMA2, MINFERENCE, MISTRAL, policy
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner, Result

from headscope.app import headmap_html
from headscope.app.cli import app
from headscope.app.dashboard.serve import RUNS
from headscope.heads import HeadMap, Policy, Window, import_map

MAIN = Path(__file__).parents[2] / "app" / "dashboard" / "main.py"
W = Window(sink=64, recent=256)


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map with one score and no labels."""
    path = tmp_path_factory.mktemp("maps") / "gates.parquet"
    result = run_cli("import", MISTRAL, "--from", "duo-attention", "--heads", 32, "--out", path)
    assert result.exit_code == 0, result.stderr
    assert "gate of 32 layers of 32 heads that share 8 KV heads" in result.stdout.replace("\n", " ")
    return path


def test_import_says_what_the_file_leaves_open(gates: Path, tmp_path: Path) -> None:
    alone = run_cli("import", MISTRAL, "--from", "omniserve", "--out", tmp_path / "a.parquet")
    assert "give --heads or --like" in alone.stdout.replace("\n", " ")
    like = run_cli(
        "import", MISTRAL, "--from", "duo-attention", "--like", gates, "--out", tmp_path / "b.parquet"
    )
    assert "--like" not in like.stdout
    assert HeadMap.open(tmp_path / "b.parquet").meta.geometry == HeadMap.open(gates).meta.geometry
    found = json.loads(
        run_cli("import", LLAMA2, "--from", "duo-attention", "--out", tmp_path / "c.parquet", "--json").stdout
    )
    assert found["scores"] == ["gate"] and found["geometry"]["heads"] == 32


def test_a_map_without_labels_is_shown(gates: Path) -> None:
    shown = run_cli("show", gates).stdout
    assert "no labels" in shown and "█" in shown and "gate" in shown
    assert len([line for line in shown.splitlines() if "█" in line]) == 32
    found = json.loads(run_cli("show", gates, "--json", "--top", 2).stdout)
    assert found["roles"] == {} and len(found["scores"]["gate"]) == 2
    table = run_cli("show", gates, "--role", "gate", "--top", "1").stdout
    assert "arXiv 2410.10819" in table.replace("\n", " ")


def test_it_is_compared(gates: Path, tmp_path: Path) -> None:
    assert "1.000" in run_cli("compare", gates, gates).stdout
    import_map(MINFERENCE, "minference").save(tmp_path / "m.parquet")
    nothing = run_cli("compare", gates, tmp_path / "m.parquet").stdout
    assert "The maps have no score in common." in nothing
    assert json.loads(run_cli("compare", gates, tmp_path / "m.parquet", "--json").stdout)["scores"] == []


def test_it_is_reported(gates: Path, tmp_path: Path) -> None:
    result = run_cli("report", gates, "--out", tmp_path / "r.html")
    assert result.exit_code == 0, result.stderr
    page = (tmp_path / "r.html").read_text().split("</main>")[0]
    for text in ("Scores without labels: gate.", "Imported from", "duo-attention", "sink_size 128"):
        assert text in page
    for absent in ("Every prompt is one prefill", "Seed", "head width", "0 of them play", 'labelmap"'):
        assert absent not in page
    assert "Scores without labels: gate." in headmap_html(HeadMap.open(gates))


def test_export_says_what_is_lost_and_how_to_use_it(tmp_path: Path) -> None:
    source, target = tmp_path / "p.json", tmp_path / "trt.yaml"
    policy([[None, W], [W, W]], [[0.5, 0.1], [0.1, 0.1]]).save(source)
    result = run_cli("export", source, "--to", "tensorrt-llm", "--layers", "any", "--out", target)
    assert result.exit_code == 0, result.stderr
    flat = " ".join(result.stdout.split())
    assert (
        "Lost: Cut, since some of their layer's stream: 1 KV group that" in flat
        and "at most 0.5 of the attention output of layer 0" in flat
    )
    assert f"--extra_llm_api_options {target}" in result.stdout
    found = json.loads(
        run_cli("export", source, "--to", "kvpress", "--out", tmp_path / "k.json", "--json").stdout
    )
    assert found["format"] == "kvpress" and "head_compression_ratio" in found["usage"]
    assert found["lost"][0]["error"] == 0.0


def test_a_map_goes_out_as_the_policy_of_a_ratio(gates: Path, tmp_path: Path) -> None:
    half = ("--ratio", 0.5, "--score", "gate")
    result = run_cli("export", gates, "--to", "headscope", *half, "--out", tmp_path / "p.json")
    assert result.exit_code == 0, result.stderr
    made = Policy.open(tmp_path / "p.json")
    assert made == HeadMap.open(gates).policy(ratio=0.5, by="gate") and made.full_share == 0.5
    again = run_cli(
        "export", tmp_path / "p.json", "--to", "headscope", "--ratio", 0.5, "--out", tmp_path / "q"
    )
    assert again.exit_code == 2 and "is a policy." in again.stderr


def test_a_scan_goes_out_and_comes_back(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    done = run_cli("export", run, "--to", "retrieval-heads", "--out", out)
    assert done.exit_code == 0, done.stderr
    assert run_cli("import", out, "--from", "retrieval-heads", "--out", tmp_path / "r.parquet").exit_code == 0
    truth = HeadMap.open(run).grid("retrieval")
    assert HeadMap.open(tmp_path / "r.parquet").grid("retrieval_sum").equals(truth)


def test_errors_are_one_sentence(gates: Path, run: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.json"
    text.write_text("not json")
    out = ("--out", tmp_path / "out")
    cases = {
        ("export", gates, "--to", "kvpres", *out): "Did you mean 'kvpress'?",
        ("export", gates, "--to", "layer-types", *out): "give --ratio",
        ("export", gates, "--to", "layer-types", "--ratio", 0.5, *out): "no group_cut_error",
        ("export", gates, "--to", "layer-types", "--ratio", 2, "--score", "gate", *out): "it is a share",
        ("export", text, "--to", "kvpress", *out): "is not a valid Policy",
        ("export", run, "--to", "kvpress", *out): "name a score",
        ("export", gates, "--to", "kvpress", "--out", "/proc/nowhere/x"): "cannot be written",
        ("import", text, "--from", "moa", *out): "is not valid JSON",
        ("import", tmp_path / "no", "--from", "moa", *out): "No such file",
        ("import", MISTRAL, "--from", "duo-attention", "--heads", 12, *out): "12 query heads share 8",
        ("import", MISTRAL, "--from", "kvpress", *out): "none can be imported",
        ("import", MISTRAL, "--from", "duo-attention", "--like", text, *out): "cannot be read",
    }
    for arguments, expected in cases.items():
        result = run_cli(*arguments)
        assert result.exit_code == 2, arguments
        assert expected in result.stderr and result.stdout == "", (arguments, result.stderr)
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["text.json"]


def test_formats_are_listed_and_the_schema_printed(tmp_path: Path) -> None:
    formats = {f["name"]: f for f in json.loads(run_cli("list", "--json").stdout)["formats"]}
    assert formats["duo-attention"]["imports"] and formats["duo-attention"]["exports"] == ["map", "policy"]
    assert not formats["layer-types"]["imports"] and formats["layer-types"]["exports"] == ["policy"]
    assert "tensorrt-llm" in run_cli("list").stdout
    printed = run_cli("schema", "policy").stdout
    assert run_cli("schema", "policy", "--out", tmp_path / "s.json").exit_code == 0
    assert (tmp_path / "s.json").read_text() == printed
    assert json.loads(printed)["title"].startswith("headscope policy: ")


@pytest.mark.parametrize("page", ["atlas", "head"])
def test_the_dashboard_opens_it(page: str, gates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNS, str(gates.parent))
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    at.query_params |= {"run": gates.name, "layer": "3", "head": "2"}
    at.switch_page(f"screens/{page}.py")
    at.run()
    assert not at.exception and not at.error
    assert "gate" in str(at.main)
