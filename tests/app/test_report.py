"""The report: its numbers, its silence on the network, and what it does with hostile text."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console

from headscope.app import headmap_html, write_report
from headscope.app.roles import roles_of
from headscope.app.tables import role_table
from headscope.heads import HeadMap
from headscope.probes import BadFile

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    return write_report(run)


@pytest.fixture(scope="module")
def markup(report: Path) -> str:
    """The page without the one large script that is plotly's."""
    scripts = re.split(r"(?=<script>)", report.read_text())
    return "".join(s for s in scripts if len(s) < 1_000_000)


def test_one_file_of_the_promised_size(report: Path) -> None:
    assert report.name == "report.html"
    assert report.stat().st_size < 6_000_000
    assert not list(report.parent.glob(".report*"))


def test_no_address_outside_the_file(markup: str) -> None:
    assert not re.findall(r"(?:https?|wss?|ftp):", markup)
    assert not re.findall(r"<(?:link|img|iframe|object)[^>]+(?:src|href)=\"(?!data:,)", markup)
    assert "default-src 'none'" in markup


def test_every_top_score_is_the_columns_number(markup: str, run: Path) -> None:
    headmap = HeadMap.open(run)
    for role in headmap.roles:
        score = headmap.rule(role).score
        section = markup.split(f'id="{role}"')[1].split("</section>")[0]
        table = section.split("<tbody>")[1].split("</tbody>")[0]
        top = headmap.top(role, 10)
        expected = [
            repr(v) for pair in zip(top[score], top[f"{score}_se"], strict=True) for v in map(float, pair)
        ]
        assert re.findall(r'<data value="([^"]+)"', table) == expected


def test_roles_appear_by_themselves_and_say_when_nobody_has_them(markup: str) -> None:
    assert "Made up heads" in markup and "Heads that score high on: what made_up means." in markup
    assert "no head meets the rule" in markup.split('id="nobody"')[1]
    assert "New measure" in markup  # a layer measure no view has heard of


def test_outside_text_stays_text(markup: str, hostile: str) -> None:
    assert hostile not in markup
    assert "&lt;script&gt;window.hacked=1&lt;/script&gt;" in markup
    assert "<b>model</b>" not in markup
    assert "\u202e" not in markup and "\\u202eabc" in markup
    assert "⏎" in markup and "⇥" in markup


def test_a_map_alone_makes_a_report_without_examples(headmap: HeadMap, tmp_path: Path) -> None:
    headmap.save(tmp_path / "alone.parquet")
    page = write_report(tmp_path / "alone.parquet")
    assert page == tmp_path / "alone.html"
    assert "Retrieval heads" in page.read_text() and 'id="layers"' not in page.read_text()


def test_a_missing_run_is_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no run folder"):
        write_report(tmp_path / "none")


def test_notebook_view_is_static_and_escaped(headmap: HeadMap) -> None:
    html = headmap._repr_html_()
    assert html == headmap_html(headmap)
    assert "<script" not in html and "<b>model</b>" not in html
    assert 'value="0.8765432109876543"' in html and html.count("<title>") == len(headmap.frame)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield made
        made.close()


def _open(browser: Browser, report: Path, theme: str, width: int) -> tuple[Page, list[str], list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)  # type: ignore[arg-type]
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(report.as_uri())
    page.wait_for_function("document.documentElement.dataset.drawn === 'yes'", timeout=30_000)
    return page, requests, errors


@needs_browser
def test_in_a_browser(browser: Browser, report: Path, run: Path) -> None:
    page, requests, errors = _open(browser, report, "light", 1280)
    assert [r for r in requests if not r.startswith("data:")] == [report.as_uri()]
    assert errors == [] and page.evaluate("window.hacked") is None
    plots = page.locator(".plot")
    assert plots.count() == page.locator(".plot .main-svg:first-child").count() > 8
    for plot in plots.all():
        assert plot.get_attribute("aria-label")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before

    page.click('.labelmap [data-layer="2"][data-head="1"]')  # a click shows every score of the head
    assert page.inner_text("#card-title").startswith("L2H1")
    assert page.locator('#card-scores td[title="0.8765432109876543"]').count() == 1
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#card-title").startswith("L2H2")
    page.keyboard.press("Escape")
    page.select_option("#column", "sink_mass_code")
    assert page.inner_text("#column-about") == "what sink_mass_code means"
    assert len(requests) == len([r for r in requests if r.startswith("data:")]) + 1


@needs_browser
@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1920, "light")])
def test_nothing_runs_over_the_edge(browser: Browser, report: Path, theme: str, width: int) -> None:
    page, _, errors = _open(browser, report, theme, width)
    assert errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_browser
def test_readable_without_scripts(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    text = page.inner_text("body")
    assert "L2H1" in text and "0.877" in text and "Heat map of retrieval over 6 layers" in text
    assert not page.locator("#explore").is_visible()


def test_the_head_that_a_card_names_has_the_label(headmap: HeadMap, tmp_path: Path) -> None:
    """A rule with further conditions may leave out the head with the highest score."""
    column = headmap.rule("retrieval").column
    second = headmap.top("retrieval", 2).iloc[1]
    named = f"L{second['layer']:.0f}H{second['head']:.0f}"
    frame = headmap.frame.assign(**{column: False})
    frame.loc[(frame["layer"] == second["layer"]) & (frame["head"] == second["head"]), column] = True
    HeadMap(frame, headmap.meta).save(tmp_path / "map.parquet")
    card = write_report(tmp_path / "map.parquet").read_text().split('href="#retrieval"')[1].split("</li>")[0]
    assert f"most: {named}," in card
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(role_table(HeadMap(frame, headmap.meta), roles_of(HeadMap(frame, headmap.meta), 3)))
    line = next(row for row in console.export_text().splitlines() if " retrieval " in row)
    assert f"{named} 0." in line and "L2H1" not in line
