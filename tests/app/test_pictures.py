"""Where heads look in pictures: the overlay's pixels, and the overlay wherever a run is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pages import text
from PIL import Image
from streamlit.testing.v1 import AppTest
from vlm_zoo import tiny_vlm

from headscope.app import headmap_html, overlay, write_report
from headscope.app.overlay import mass_map, overlay_words
from headscope.heads import HeadMap, Look, read_looks, scan
from headscope.probes import Picture, View, load

WHITE = Picture.open(Image.new("RGB", (40, 20), "white"))


def test_mass_falls_where_the_views_say() -> None:
    """A coarse view over everything and a fine one, with ends of rows, over the right half."""
    views = (View(0, 3, 1, 2, 2), View(0, 10, 2, 2, 3, (0.5, 0.0, 1.0, 1.0)))
    mass = {3: 0.1, 4: 0.2, 10: 0.05, 11: 0.0, 12: 0.4, 13: 0.0, 14: 0.15}
    look = Look(0, WHITE, views, mass, frozenset({14}))
    found = mass_map(look, 80, 40)
    assert found.sum() == pytest.approx(sum(mass.values()) - mass[12])
    assert found[:, :40].sum() == pytest.approx(0.1)
    assert found[:20, 40:60].sum() == pytest.approx(0.05 + 0.2 / 4)
    assert found[20:, 60:].sum() == pytest.approx(0.15 + 0.2 / 4)
    both = np.asarray(overlay(look))
    assert both.shape == (192, 2 * 384 + 12, 3)
    right = both[:, 396:].astype(int)
    assert (both[:, :384] == 255).all()
    tint = right[..., 0] - right[..., 1]
    row, column = np.unravel_index(tint.argmax(), tint.shape)
    assert row >= 96 and column >= 288, "the strongest place"
    assert (right[97:99, 290:380] < 5).all(), "a sink is outlined"
    assert "50% of its attention on the picture, 15% of all on 1 visual sink" in overlay_words(look)


def test_what_lies_outside_of_the_picture_is_left_out() -> None:
    padded = View(0, 0, 2, 1, 1, (0.0, -0.5, 1.0, 1.5))
    look = Look(0, WHITE, (padded,), {0: 0.5, 1: 0.5}, frozenset())
    assert mass_map(look, 40, 20).sum() == pytest.approx(0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hf, tokenizer, eyes = tiny_vlm("llava")
    path = tmp_path_factory.mktemp("shelf") / "llava"
    scan(load(hf, tokenizer=tokenizer, image_processor=eyes), "quick", path)
    return path


def test_a_run_keeps_its_looks(run: Path) -> None:
    looks = read_looks(run / "evidence", (2, 3))
    assert len(looks) == 2 and len(looks[0].mass) == 16
    frame = HeadMap.open(run).frame
    mine = frame[(frame["layer"] == 2) & (frame["head"] == 3)].iloc[0]
    assert 0 < sum(looks[0].mass.values()) < 1 and abs(sum(looks[0].mass.values()) - mine["image_mass"]) < 0.2
    assert not read_looks(run, (2, 3))


def test_report_and_notebook_show_them(run: Path) -> None:
    report = write_report(run).read_text()
    assert 'id="pictures"' in report and report.count('class="look"') >= 3
    assert report.count("what colour is the") >= 3
    page = headmap_html(HeadMap.open(run))
    assert page.count("data:image/png;base64,") >= 3 and "of its attention on the picture" in page


@pytest.fixture
def runs(run: Path) -> Path:
    """The folder that `page` opens."""
    return run.parent


def test_the_head_page_shows_them(page: Callable[..., AppTest]) -> None:
    at = page("head", run="llava", layer="2", head="3")
    assert "Where in a picture it looks" in text(at)
    assert text(at).count("of its attention on the picture") == 2
