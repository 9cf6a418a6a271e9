"""The dashboard in a real browser: the ways through it, what it loads, and what it never runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from headscope.heads import HeadMap, Manifest, MapMeta, Policy, keep_circuits
from headscope.heads.run import Plan
from headscope.heads.storage import write_json
from headscope.probes import Circuit, Picture, Recipe, Spec, fit, load

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("shelf")
    make_run(root / "tiny")
    make_run(root / "other", seed=1)
    (root / "broken").mkdir()
    (root / "broken" / "headmap.parquet").write_bytes(b"PAR1")
    return root


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "headscope.app", "app", str(runs), "--port", str(port), "--no-browser"]
    with subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}) as process:
        try:
            _wait(f"http://localhost:{port}/_stcore/health")
            yield f"http://localhost:{port}"
        finally:
            process.terminate()


def _wait(url: str) -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.25)
    raise TimeoutError(url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield made
        made.close()


class Visit:
    """A page of the dashboard, and everything it asked the network for."""

    def __init__(self, browser: Browser, server: str, path: str, *, theme: str = "light") -> None:
        self.server = server
        self.page: Page = browser.new_page(
            viewport={"width": 1280, "height": 900},
            color_scheme=theme,  # type: ignore[arg-type]
        )
        self.page.set_default_timeout(30_000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(server + path)
        self.ready()

    def ready(self) -> Page:
        """Wait until the script has run and nothing is still loading."""
        self.page.wait_for_timeout(150)
        self.page.wait_for_selector(".stApp[data-test-script-state=notRunning]")
        assert self.page.locator("[data-testid=stException]").count() == 0
        return self.page

    def at(self, path: str) -> None:
        expect(self.page).to_have_url(self.server + path)
        self.ready()

    def well(self) -> None:
        """No error, no request to anywhere else, nothing hostile run."""
        outside = [r for r in self.requests if not r.startswith((self.server, "data:", "blob:"))]
        assert outside == [] and self.errors == []
        assert self.page.evaluate("window.hacked") is None


def test_from_the_runs_over_the_map_to_a_head_and_back(browser: Browser, server: str) -> None:
    visit = Visit(browser, server, "/")
    page = visit.page
    expect(page.locator(".hs-status.damaged")).to_have_count(1)
    page.get_by_role("link", name="tiny", exact=True).click()
    visit.at("/atlas?run=tiny")
    page.locator('.labelmap [data-layer="2"][data-head="1"]').click()
    visit.at("/head?run=tiny&layer=2&head=1")
    expect(page.locator("h1")).to_have_text("L2H1")
    page.keyboard.press("ArrowRight")
    visit.at("/head?run=tiny&layer=2&head=2")
    page.keyboard.press("Shift+ArrowRight")
    visit.at("/head?run=tiny&layer=3&head=2")
    page.go_back()
    page.go_back()
    visit.at("/head?run=tiny&layer=2&head=1")
    page.go_back()
    visit.at("/atlas?run=tiny")
    visit.well()


def test_a_click_on_a_score_leads_to_the_head_every_time(browser: Browser, server: str) -> None:
    address = "/atlas?run=tiny&show=retrieval"
    visit = Visit(browser, server, address, theme="dark")
    page = visit.page
    for _ in range(2):
        page.locator('.labelmap [data-layer="2"][data-head="1"]').click()
        visit.at("/head?run=tiny&layer=2&head=1")
        page.go_back()
        visit.at(address)
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
        == "rgb(22, 24, 29)"
    )
    assert not [url for url in visit.requests if "Plotly" in url], "which takes the browser a second"
    visit.well()


def test_an_address_brings_the_view_back_and_tokens_stay_text(
    browser: Browser, server: str, hostile: str
) -> None:
    visit = Visit(browser, server, "/head?run=tiny&layer=2&head=1&kind=prose&at.retrieval.0=0.9")
    page = visit.page
    expect(page.locator(".st-key-address-kind [aria-checked=true]")).to_have_text("prose")
    expect(page.locator(".hs-chips")).not_to_contain_text("retrieval")
    page.get_by_text("The whole prompt").click()
    visit.ready()
    expect(page.locator(".tokens")).to_contain_text(hostile)
    page.locator(".tokens .t.row").first.click()
    expect(page.locator("p.says").last).to_contain_text("Standing on")
    visit.well()


def test_the_map_can_be_walked_with_the_keys(browser: Browser, server: str) -> None:
    visit = Visit(browser, server, "/atlas?run=other")
    visit.page.locator(".labelmap").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        visit.page.keyboard.press(key)
    expect(visit.page.locator(".tip")).to_contain_text("L1H1")
    visit.page.keyboard.press("Enter")
    visit.at("/head?run=other&layer=1&head=1")
    visit.well()


def test_a_policy_is_downloaded_as_it_is_shown(
    browser: Browser, server: str, runs: Path, tmp_path: Path
) -> None:
    visit = Visit(browser, server, "/policy?run=tiny&by=retrieval&ratio=0.25")
    with visit.page.expect_download() as download:
        visit.page.get_by_test_id("stDownloadButton").get_by_role("button").click()
    download.value.save_as(tmp_path / "policy.json")
    assert Policy.open(tmp_path / "policy.json") == HeadMap.open(runs / "tiny").policy(
        ratio=0.25, by="retrieval"
    )
    visit.well()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_opens_without_an_error(browser: Browser, server: str, theme: str) -> None:
    for name in ("sinks", "compare", "circuits") if theme == "light" else ("policy", "head"):
        visit = Visit(browser, server, f"/{name}?run=tiny", theme=theme)
        visit.page.wait_for_timeout(300)
        charts = visit.page.locator("[data-testid=stPlotlyChart]")
        for chart in charts.all():
            assert chart.get_attribute("aria-label") or chart.locator("[aria-label]").count()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 1280
        visit.well()
        visit.page.close()


@pytest.mark.model
def test_a_scan_survives_a_reload(browser: Browser, server: str) -> None:
    visit = Visit(browser, server, "/")
    page = visit.page
    page.get_by_label("Name", exact=True).fill("fresh")
    page.get_by_role("spinbutton", name="Longest prompt").fill("256")
    page.get_by_role("button", name="Start the scan").click()
    card = page.locator(".st-key-run-fresh")
    expect(card.locator(".hs-status")).to_have_text("running")
    page.reload()
    visit.ready()
    expect(card.locator(".hs-status")).to_have_text("running")
    expect(card).to_contain_text("of 11 prompts", timeout=60_000)
    card.get_by_role("button", name="Stop").click()
    expect(card.locator(".hs-status")).to_have_text("unfinished")
    expect(card.get_by_role("button", name="Go on")).to_be_visible()
    visit.well()


@pytest.fixture(scope="module")
def seeing(runs: Path) -> str:
    """A run of the shipped model that sees, without evidence."""
    shapes = load("shapes")
    layer, head = (a.reshape(-1) for a in np.indices((shapes.geometry.layers, shapes.geometry.heads)))
    frame = pd.DataFrame({"layer": layer, "head": head, "kv_head": head})
    meta = MapMeta(
        model="shapes", fingerprint=shapes.fingerprint, geometry=shapes.geometry, tasks={"scenes": 1}
    )
    HeadMap(frame, meta).save(runs / "seeing" / "headmap.parquet")
    plan = Plan(
        model="shapes", fingerprint=shapes.fingerprint, geometry=shapes.geometry, dtype="float32",
        preset="quick", context=256, seed=0, recipe=Recipe(), haystack="", parts=(),
    )  # fmt: skip
    write_json(runs / "seeing" / "manifest.json", Manifest(plan=plan, status="done", started="2026"))
    return "seeing"


def test_a_picture_is_asked_about_without_and_with_an_intervention(
    browser: Browser, server: str, seeing: str, runs: Path, tmp_path: Path
) -> None:
    visit = Visit(browser, server, f"/interventions?run={seeing}&method=vhr&set.share=0.3", theme="dark")
    page, mine = visit.page, tmp_path / "<b>mine.png"
    mine.write_bytes(b"<svg onload=alert(1)>")
    page.locator("[data-testid=stFileUploaderDropzoneInput]").set_input_files(mine)
    expect(page.locator(".hs-error")).to_contain_text("<b>mine.png' is no picture")
    assert not (runs / seeing / "pictures").exists()
    Image.new("RGB", (64, 64), "red").save(mine)
    page.locator("[data-testid=stFileUploaderDropzoneInput]").set_input_files(mine)
    expect(page.get_by_role("img", name="that is asked about")).to_be_visible()
    digest = Picture.open(mine).digest
    assert [p.stem for p in (runs / seeing / "pictures").iterdir()] == [digest] and digest in page.url
    page.get_by_role("button", name="Run shapes with and without it").click()
    expect(page.locator(".hs-answer")).to_have_count(2, timeout=60_000)
    expect(page.locator("code").first).to_contain_text("headscope intervene vhr shapes")
    page.reload()
    visit.ready()
    expect(page.get_by_role("img", name="that is asked about")).to_be_visible()
    expect(page.get_by_role("spinbutton", name="Share")).to_have_value("0.3")
    visit.well()


def test_a_fit_survives_a_reload_and_its_spec_is_downloaded_and_kept(
    browser: Browser, server: str, seeing: str, runs: Path, tmp_path: Path
) -> None:
    visit = Visit(browser, server, f"/interventions?run={seeing}&method=zero&heads=L1H2&kept=0.5")
    page = visit.page
    page.get_by_role("button", name="Fit it to shapes").click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.reload()
    expect(page.locator(".stApp")).to_contain_text("Fitting zero")
    expect(page.get_by_role("button", name="Download the spec")).to_be_visible(timeout=60_000)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the spec").click()
    download.value.save_as(tmp_path / "spec.json")
    spec = Spec.open(tmp_path / "spec.json")
    assert spec == fit(load("shapes"), "zero", heads=["L1H2"], strength=0.5, source=spec.source)
    kept = list((runs / seeing / "interventions").iterdir())
    assert [Spec.open(path) for path in kept] == [spec]
    page.goto(f"{server}/interventions?run={seeing}&spec=interventions/{kept[0].name}")
    expect(page.locator(".hs-note").first).to_contain_text("zero on L1H2; strength 0.5, all rows.")
    visit.well()


def test_a_click_on_a_feature_of_a_circuit_asks_for_that_feature(
    browser: Browser, server: str, runs: Path
) -> None:
    found = Path(__file__).parents[2] / "benchmarks" / "results" / "sparse_features_ioi.json"
    circuit = Circuit.open(found)
    keep_circuits(runs / "featured", [circuit], [])
    plan = Plan(
        model="/nowhere", fingerprint=circuit.fingerprint, geometry=circuit.geometry, dtype="float32",
        preset="quick", context=256, seed=0, recipe=Recipe(), haystack="", parts=(),
    )  # fmt: skip
    write_json(runs / "featured" / "manifest.json", Manifest(plan=plan, status="done", started="2026"))
    visit = Visit(browser, server, "/circuits?run=featured&edges=9")
    visit.page.get_by_role("button", name="L23.z/f740").click()
    visit.at("/circuits?run=featured&edges=9&sae=smollm2%2FL23.z&feature=740")
    expect(visit.page.locator(".hs-error")).to_contain_text("/nowhere")
    expect(visit.page.locator("code").last).to_have_text("headscope sae show smollm2/L23.z --feature 740")
    visit.page.go_back()
    visit.at("/circuits?run=featured&edges=9")
    visit.well()
