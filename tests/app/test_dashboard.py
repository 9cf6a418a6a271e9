"""The dashboard's pages without a browser: what they read, what they refuse, what they show."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import text
from streamlit.testing.v1 import AppTest

from headscope.app import headmap_html
from headscope.app.dashboard import jobs, shelf
from headscope.app.dashboard.look import plain
from headscope.app.dashboard.navigation import PAGES
from headscope.app.dashboard.serve import RUNS, address, options, serve
from headscope.heads import HeadMap
from headscope.heads.gate_plan import GatePlan
from headscope.heads.gate_run import GateFolder
from headscope.heads.storage import write_json
from headscope.probes import HeadscopeError, UnknownName


def test_the_shelf_lists_everything_and_follows_no_link_out(runs: Path) -> None:
    found = {run.name: run for run in shelf.shelf(runs)}
    assert set(found) == {"tiny", "other", "broken", "way-out", "leaky"}
    assert found["tiny"].status == "done" and found["tiny"].model == "tiny <b>model</b>"
    assert found["broken"].status == "damaged" and "cannot be read" in found["broken"].note
    assert found["way-out"].note == "way-out is a link that leads out of the runs folder."
    assert found["leaky"].note == "layers.parquet is a link that leads out of the runs folder."
    assert set(shelf.maps(runs)) == {"tiny", "other", "broken"}


@pytest.mark.parametrize("name", ["../outside", "/etc", "tiny/../../outside", "tin", "", ".", "notes.txt"])
def test_no_name_leads_anywhere_else(runs: Path, name: str) -> None:
    with pytest.raises(UnknownName, match="There is no run"):
        shelf.find(runs, name)


MAIN = Path(__file__).parents[2] / "app" / "dashboard" / "main.py"
READ = """
import sys
from streamlit.testing.v1 import AppTest
for name in ("runs", "atlas", "head", "sinks", "compare", "policy"):
    page = AppTest.from_file(sys.argv[1], default_timeout=30)
    page.query_params["run"] = "tiny"
    if name != "runs":
        page.switch_page(f"screens/{name}.py")
    page.run()
    assert not page.exception, page.exception
    assert "torch" not in sys.modules, name
"""


def test_pages_that_read_files_do_without_torch(runs: Path) -> None:
    """Loading it takes seconds, which the first visitor of such a page would wait."""
    command = [sys.executable, "-c", READ, str(MAIN)]
    done = subprocess.run(command, env=os.environ | {RUNS: str(runs)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_trained_gates_are_a_run_like_any_other(page: Callable[..., AppTest], runs: Path) -> None:
    tiny, folder = HeadMap.open(runs / "tiny"), runs / "gated"
    folder.mkdir()
    plan = GatePlan(
        model="tiny", fingerprint=tiny.meta.fingerprint, geometry=tiny.meta.geometry, dtype="float32",
        task="recital", haystack="", lengths=(400, 500),
    )  # fmt: skip
    manifest = GateFolder(folder).begin(plan, "2026-01-01T00:00:00+00:00", "cpu")
    found = shelf.find(runs, "gated")
    assert found.status == "unfinished" and found.context == 500 and "headscope gates" in found.note
    tiny.save(folder / "headmap.parquet")
    manifest.finish()
    write_json(folder / "manifest.json", manifest)
    assert shelf.find(runs, "gated").readable
    for name in PAGES:
        assert "gated&#39; cannot be shown" not in text(page(name, run="gated")), name


@pytest.mark.parametrize("run", ["../outside", "way-out", "leaky", "broken", "nothing"])
def test_a_run_that_cannot_be_shown_is_one_sentence(page: Callable[..., AppTest], run: str) -> None:
    for name in PAGES if run == "../outside" else ("head",):
        if name == "runs":
            continue
        shown = text(page(name, run=run))
        assert "hs-error" in shown and ("There is no run" in shown or "cannot be shown" in shown)


def test_the_first_page_lists_runs_and_escapes_them(page: Callable[..., AppTest]) -> None:
    shown = text(page("runs"))
    assert "damaged" in shown and "leads out of the runs folder" in shown
    assert "tiny &lt;b&gt;model" in shown and "<b>model" not in shown


def test_the_filter_stands_in_the_address(page: Callable[..., AppTest]) -> None:
    at = page("runs", q="way")
    assert at.text_input(key="filter").value == "way"
    shown = text(at)
    assert "way-out" in shown and "leaky" not in shown


def test_atlas_shows_roles_scores_and_top_heads(page: Callable[..., AppTest]) -> None:
    shown = text(page("atlas", run="tiny"))
    assert "labelmap" in shown and "L2H1" in shown and "0.877" in shown
    at = page("atlas", run="tiny", show="sink_mass_code", mark="retrieval,sink")
    assert "what sink_mass_code means" in text(at)
    assert at.selectbox(key="address-show").value == "sink_mass_code"


def test_labels_follow_the_thresholds_in_the_address(page: Callable[..., AppTest], runs: Path) -> None:
    headmap = HeadMap.open(runs / "tiny")
    more = int((headmap.frame["retrieval"] >= 0.2).sum())
    at = page("atlas", run="tiny", show="retrieval", at_retrieval__0="0.2")
    assert f"{more} of {len(headmap.frame)} heads are retrieval." in text(at)
    assert at.slider(key="address-at.retrieval.0").value == 0.2
    assert "heads are retrieval" not in text(page("atlas", run="tiny", show="retrieval"))
    opened = page("atlas", run="tiny", show="retrieval", thresholds=True)
    assert "1 of 24 heads are retrieval." in text(opened)


@pytest.mark.parametrize("value", ["nan", "inf", "x", "1e999", ""])
def test_nonsense_thresholds_are_the_maps_own(page: Callable[..., AppTest], value: str) -> None:
    at = page("atlas", run="tiny", show="retrieval", at_retrieval__0=value, thresholds=True)
    assert "1 of 24 heads are retrieval." in text(at)


def test_an_unknown_score_is_named_with_the_nearest(page: Callable[..., AppTest]) -> None:
    assert "Did you mean &#39;retrieval&#39;" in text(page("atlas", run="tiny", show="retreival"))


def test_the_head_page_has_the_columns_numbers(page: Callable[..., AppTest], runs: Path) -> None:
    shown = text(page("head", run="tiny", layer=2, head=1))
    row = HeadMap.open(runs / "tiny").frame.query("layer == 2 and head == 1").iloc[0]
    for name in ("retrieval", "sink", "sink_mass_code"):
        assert f'title="{float(row[name])!r}"' in shown
    assert "retrieval &gt;= 0.5" in shown and "this head" in shown


def test_hostile_tokens_stay_text(page: Callable[..., AppTest], hostile: str) -> None:
    for kind in ("needle", "prose"):
        shown = text(page("head", run="tiny", layer=2, head=1, kind=kind))
        assert hostile not in shown and "&lt;script&gt;" in shown
        assert "\u202e" not in shown


def test_a_hostile_role_cannot_leave_its_style(page: Callable[..., AppTest], runs: Path) -> None:
    headmap = HeadMap.open(runs / "tiny")
    rule = headmap.meta.rules[0]
    evil = "x);background:url(http://a.b/c);--y:var(--z"
    headmap.relabel([rule.model_copy(update={"role": evil})]).save(runs / "evil.parquet")
    for name in ("atlas", "head", "circuits"):
        shown = text(page(name, run="evil.parquet"))
        assert not re.findall(r'style="[^"]*url\(', shown), name
    assert 'style="' in headmap_html(HeadMap.open(runs / "evil.parquet"))
    assert not re.findall(r'style="[^"]*url\(', headmap_html(HeadMap.open(runs / "evil.parquet")))


@pytest.mark.parametrize(("layer", "head"), [("99", "0"), ("-1", "0"), ("x", "1"), ("0", "4"), ("1e3", "0")])
def test_a_head_that_is_not_there(page: Callable[..., AppTest], layer: str, head: str) -> None:
    assert "There is no head" in text(page("head", run="tiny", layer=layer, head=head))


def test_next_and_previous_head_go_round(page: Callable[..., AppTest]) -> None:
    at = page("head", run="tiny", layer=5, head=3)
    at.button(key="step1").click().run()
    assert (at.query_params["layer"], at.query_params["head"]) == ("0", "0")
    at.button(key="step-1").click().run()
    assert (at.query_params["layer"], at.query_params["head"]) == ("5", "3")


def test_a_map_without_evidence_says_so(page: Callable[..., AppTest], runs: Path) -> None:
    shutil.rmtree(runs / "tiny" / "evidence")
    shutil.copy(runs / "other" / "headmap.parquet", runs / "alone.parquet")
    for run in ("tiny", "alone.parquet"):
        assert "kept no evidence" in text(page("head", run=run, layer=1, head=1))


def test_markdown_cannot_be_made_of_a_name() -> None:
    assert plain("![x](http://a/b.png) *a* $b$") == r"\!\[x\]\(http\://a/b\.png\) \*a\* \$b\$"


def test_the_server_listens_here_alone_and_reports_to_nobody() -> None:
    chosen = options(8600, "auto", False)
    for flag in (
        "--server.address=127.0.0.1", "--browser.gatherUsageStats=false", "--server.fileWatcherType=none",
        "--server.enableXsrfProtection=true", "--server.allowedHosts=127.0.0.1",
    ):  # fmt: skip
        assert flag in chosen
    assert "--theme.base=dark" in options(8600, "dark", False)


def test_serve_refuses_what_it_cannot_serve(tmp_path: Path, run: Path) -> None:
    with pytest.raises(HeadscopeError, match="There is no folder"):
        serve(tmp_path / "none", port=8600)
    with pytest.raises(HeadscopeError, match="Did you mean 'dark'"):
        serve(tmp_path, port=8600, theme="darc")
    assert address(run, 8600) == f"http://localhost:8600/atlas?run={run.name}"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 81])
def test_a_scan_is_written_to_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(HeadscopeError, match="a run's name has letters"):
        jobs.scan(tmp_path, name, jobs.Scan(model="smollm2"))
    assert not list(tmp_path.iterdir())


def test_a_model_name_is_never_an_option() -> None:
    command = jobs.Scan(model="--out=/tmp/x", context=512).command(Path("runs/a"))
    assert command[:4] == [sys.executable, "-m", "headscope.app", "scan"]
    assert command[-2:] == ["--", "--out=/tmp/x"] and "512" in command


def test_a_scan_that_fails_is_listed_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = [sys.executable, "-c", "import time; print('one'); time.sleep(0.3); exit('There is no model.')"]
    monkeypatch.setattr(jobs.Scan, "command", lambda self, folder: stub)
    jobs.scan(tmp_path, "wrong", jobs.Scan(model="no-such-model", preset="quick"))
    assert shelf.find(tmp_path, "wrong").status == "running"
    with pytest.raises(HeadscopeError, match="is running already"):
        jobs.scan(tmp_path, "wrong", jobs.Scan(model="no-such-model"))
    deadline = time.monotonic() + 60
    while jobs.alive(tmp_path / "wrong", jobs.Scan) and time.monotonic() < deadline:
        time.sleep(0.05)
    found = shelf.find(tmp_path, "wrong")
    assert (found.status, found.model, found.preset) == ("failed", "no-such-model", "quick")
    assert found.note == "There is no model."


def test_a_process_of_another_birth_is_not_the_scan(tmp_path: Path) -> None:
    job = jobs.Scan(pid=os.getpid(), born=1.0, model="smollm2")
    (tmp_path / job.FILE).write_text(job.model_dump_json())
    assert not jobs.alive(tmp_path, jobs.Scan)
    (tmp_path / job.FILE).write_text(json.dumps({"pid": "x"}))
    assert not jobs.alive(tmp_path, jobs.Scan)
