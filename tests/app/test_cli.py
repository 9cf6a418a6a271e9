"""The command line: exit codes, sentences, and machine output that parses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headscope.app.cli import app
from headscope.heads import HeadMap
from headscope.probes import HeadscopeError

COMMAND = [sys.executable, "-m", "headscope.app"]


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def process(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | env,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        *("scan", "gates", "prove", "intervene", "generate", "evaluate"),
        *("attribute", "verify", "sweep", "policy choose", "policy show", "policy compare"),
        *("show", "compare", "report"),
        *("app", "export", "import", "schema", "list", "models"),
    ],
)
def test_every_command_explains_itself_with_examples(command: str) -> None:
    result = run_cli(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"headscope {command} " in result.output


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from headscope.app.cli import app\n"
        "heavy = {'torch', 'transformers', 'plotly', 'pandas', 'scipy', 'pyarrow', 'streamlit'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_show_lists_roles_letters_and_accuracy(run: Path) -> None:
    result = run_cli("show", run)
    assert result.exit_code == 0
    for text in ("retrieval", "made up", "L2H1 0.877", "needle 75%", "tiny <b>model</b>"):
        assert text in result.stdout


def test_show_json_has_exactly_the_columns_numbers(run: Path) -> None:
    found = json.loads(run_cli("show", run, "--json").stdout)
    headmap = HeadMap.open(run)
    assert set(found["roles"]) == set(headmap.roles)
    for name, role in found["roles"].items():
        score = headmap.rule(name).score
        expected = headmap.top(name, 10)
        assert [e[score] for e in role["top"]] == expected[score].tolist()
        assert [e[f"{score}_se"] for e in role["top"]] == expected[f"{score}_se"].tolist()
        assert role["count"] == headmap.frame[headmap.rule(name).column].sum()


def test_show_one_role_and_one_score(run: Path) -> None:
    table = run_cli("show", run, "--role", "retrieval", "--top", "2").stdout
    assert "L2H1" in table and "0.877" in table and "what retrieval means" in table
    score = json.loads(run_cli("show", run, "--role", "sink_mass_code", "--top", "2", "--json").stdout)
    assert [e["sink_mass_code"] for e in score["top"]] == HeadMap.open(run).top("sink_mass_code", 2)[
        "sink_mass_code"
    ].tolist()


def test_compare_says_what_changed(run: Path, other_run: Path) -> None:
    found = json.loads(run_cli("compare", run, other_run, "--json").stdout)
    truth = HeadMap.open(run).compare(HeadMap.open(other_run))
    assert [s["spearman"] for s in found["scores"]] == truth.scores["spearman"].tolist()
    assert len(found["labels"]) == len(truth.labels) > 0
    text = run_cli("compare", run, other_run).stdout
    assert f"{len(truth.labels)} labels changed" in text
    assert "No head changed its label." in run_cli("compare", run, run).stdout


def test_list_and_models_parse() -> None:
    found = json.loads(run_cli("list", "--json").stdout)
    assert {d["name"] for d in found["detectors"]} >= {"retrieval", "sink"}
    assert {p["name"] for p in found["presets"]} == {"backcopy", "quick", "standard", "thorough"}
    assert "standard" in run_cli("list").stdout
    assert {m["name"] for m in json.loads(run_cli("models", "--json").stdout)["models"]} >= {
        "bigram-backcopy",
        "facts",
        "smollm2",
    }
    assert "smollm2" in run_cli("models").stdout


def test_report_command_writes_where_asked(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "page.html"
    result = run_cli("report", run, "--out", target)
    assert result.exit_code == 0 and str(target) in result.stdout.replace("\n", "")
    assert target.read_text().startswith("<!doctype html>")
    assert [p.name for p in target.parent.iterdir()] == ["page.html"]


def test_errors_are_one_sentence(run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "bad.parquet"
    damaged.write_bytes(b"PAR1 nonsense")
    binary, empty = tmp_path / "binary.txt", tmp_path / "empty.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    empty.write_text(" \n")
    cases = {
        ("show", run, "--role", "retreival"): "Did you mean 'retrieval'?",
        ("show", tmp_path / "nothing"): "There is no run folder or head map",
        ("show", damaged): "cannot be read",
        ("compare", run, damaged): "cannot be read",
        ("report", run, "--out", "/proc/nowhere/r.html"): "'/proc/nowhere/r.html' cannot be written",
        ("report", run, "--out", tmp_path): f"{str(tmp_path)!r} cannot be written",
        ("app", tmp_path / "no", "--no-browser"): "There is no folder",
        ("scan", "smollm2", "--haystack", tmp_path / "none.txt"): "No such file or directory",
        ("scan", "smollm2", "--haystack", tmp_path): "Is a directory",
        ("scan", "smollm2", "--haystack", binary): "is not UTF-8 text",
        ("scan", "smollm2", "--haystack", empty): "is empty",
        ("scan", "smollm2", "--preset", "quik"): "Did you mean 'quick'?",
        ("scan", "smollm"): "Did you mean 'smollm2'?",
    }
    for arguments, expected in cases.items():
        result = run_cli(*arguments)
        assert result.exit_code == 2, arguments
        assert expected in result.stderr and result.stdout == "", arguments
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr


@pytest.mark.parametrize(
    "command",
    ["scan smollm2", "gates smollm2", "sae train smollm2 --layer 3", "policy choose r --out p --ratio 1",
     "policy compare r"],
)  # fmt: skip
def test_a_seed_is_not_negative(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli(*command.split(), "--seed", "-1")
    assert result.exit_code == 2 and "'--seed'" in result.stderr and not list(tmp_path.iterdir())


def test_a_process_answers_without_traceback_bar_or_colour(run: Path) -> None:
    began = time.perf_counter()
    wrong = process("show", run, "--role", "nope")
    assert time.perf_counter() - began < 30
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr and wrong.stdout == ""
    assert len(wrong.stderr.strip().splitlines()) == 1
    unknown = process("shwo")
    assert unknown.returncode == 2 and "Did you mean 'show'?" in unknown.stderr
    right = process("show", run, "--json")
    assert right.returncode == 0 and right.stderr == "" and "\x1b" not in right.stdout
    json.loads(right.stdout)
    silent = process("show", run, RANK="1", WORLD_SIZE="2")
    assert silent.returncode == 0 and silent.stdout == "" == silent.stderr


Pretend = Callable[..., None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Path], headmap: HeadMap) -> Pretend:
    """A model that loads at once, and a scan that leaves the made-up run folder."""
    from headscope import heads, probes

    def put(folder: Path, error: BaseException | None = None) -> None:
        def scan(*_: object, progress: Any, **__: object) -> HeadMap:
            if error:
                raise error
            progress(SimpleNamespace(done=1, total=2, share=0.5, seconds_left=100.0, prompt=None))
            return HeadMap.open(make_run(folder))

        device = SimpleNamespace(type="cpu")
        model = SimpleNamespace(name="smollm2", geometry=headmap.meta.geometry, device=device)
        each = dict.fromkeys(("weights", "held", "prefill", "rows"), 1 << 30)
        estimate = SimpleNamespace(**each, total=4 << 30, more=2 << 30)
        monkeypatch.setattr(probes, "load", lambda *_, **__: model)
        monkeypatch.setattr(heads, "scan", scan)
        monkeypatch.setattr(heads, "estimate_memory", lambda *_: estimate)

    return put


def test_scan_announces_reports_and_says_where(pretend: Pretend, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    pretend(folder)
    result = run_cli("scan", "smollm2", "--preset", "quick", "--out", folder)
    assert result.exit_code == 0, result.output
    assert "Memory: about 4.0 GiB" in result.stderr and "Scan: 1 of 2 prompts" in result.stderr
    assert "\r" not in result.stderr and "━" not in result.stderr
    flat = result.stdout.replace("\n", "")
    assert "L2H1 0.877" in flat and str(folder / "report.html") in flat
    assert (folder / "report.html").exists()


def test_scan_json_is_one_object(pretend: Pretend, tmp_path: Path) -> None:
    pretend(tmp_path)
    found = json.loads(run_cli("scan", "smollm2", "--out", tmp_path, "--json").stdout)
    assert found["report"] == str(tmp_path / "report.html")
    assert found["roles"]["retrieval"]["top"][0]["retrieval"] == 0.8765432109876543


def test_scan_hands_on_errors(pretend: Pretend, tmp_path: Path) -> None:
    full = OSError(28, "No space left on device", "/x/y")
    for error in (HeadscopeError("The context is too long."), full):
        pretend(tmp_path, error)
        result = run_cli("scan", "smollm2", "--out", tmp_path)
        assert result.exit_code == 2
        last = result.stderr.strip().splitlines()[-1]
        assert last in ("The context is too long.", "'/x/y': No space left on device.")


def test_an_interrupted_scan_says_that_it_can_go_on(pretend: Pretend, tmp_path: Path) -> None:
    pretend(tmp_path, KeyboardInterrupt())
    result = run_cli("scan", "smollm2", "--out", tmp_path)
    assert result.exit_code == 130
    assert result.stderr.strip().splitlines()[-1].startswith("Stopped; the same command goes on from")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2", "smollm2"),
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
        ("/a/b c.gguf", "b-c"),
        ("./", Path.cwd().name),
    ],
)
def test_the_run_folder_is_named_after_the_model(model: str, name: str) -> None:
    from headscope.app.cli_scan import slug

    assert slug(model) == name
