"""Figures have the cells of the map, and their colours are their own."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from headscope.app import kind_map, label_map, layer_line, score_map
from headscope.app.charts import chart, paint
from headscope.app.palette import COLOURS, Theme, hues, ramp, shade
from headscope.app.scoremap import score_svg
from headscope.heads import HeadMap


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_score_map_has_every_cell(headmap: HeadMap, theme: Theme) -> None:
    figure = score_map(headmap, "retrieval", role="retrieval", theme=theme)
    cells, outlines = figure.data[0], figure.data[2]
    for row in headmap.frame.itertuples():
        assert cells.z[row.head, row.layer] == row.retrieval
        assert cells.customdata[row.head, row.layer].tolist() == [row.retrieval_se, row.kv_head]
    labelled = headmap.frame[headmap.frame["is_retrieval"]]
    assert len(outlines.x) == 6 * len(labelled)
    assert np.mean(outlines.x[:4]) == labelled.iloc[0]["layer"]
    assert figure.layout.coloraxis.colorscale[0][1] == COLOURS[theme]["empty"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_map_as_markup_has_the_colours_of_the_figure(headmap: HeadMap, theme: Theme) -> None:
    figure = score_map(headmap, "retrieval", role="retrieval", theme=theme)
    svg = score_svg(headmap, "retrieval", role="retrieval", marks=["retrieval"], theme=theme, alt="<alt>")
    cells = re.findall(
        r'data-layer="(\d+)" data-head="(\d+)"><title>(.*?)</title><rect[^>]*fill="(.*?)"', svg
    )
    assert len(cells) == len(headmap.frame) and "&lt;alt&gt;" in svg
    best = next(c for c in cells if c[:2] == ("2", "1"))
    assert "L2H1 (KV head 0): retrieval 0.8765 ± " in best[2] and "; " in best[2]
    assert best[3] == figure.layout.coloraxis.colorscale[-1][1]  # the highest of all
    assert svg.count("M") == int(headmap.frame["is_retrieval"].sum())


def test_a_map_as_markup_says_what_is_unknown_and_escapes_names(headmap: HeadMap) -> None:
    headmap.frame["<b>"] = headmap.frame["made_up"]
    svg = score_svg(headmap, "<b>")
    assert "L0H0 (KV head 0): &lt;b&gt; unknown" in svg and 'fill="none"' in svg and "<b>:" not in svg
    headmap.frame["sink"] -= 0.7
    signed = score_svg(headmap, "sink")
    assert signed.count("%,") == 4 and "<span>0.000</span>" in signed


def test_colours_between_the_ends_of_a_ramp() -> None:
    colours = [[0.0, "#000000"], [0.5, "#808080"], [1.0, "#ff0000"]]
    assert [shade(colours, t) for t in (-1, 0, 0.25, 0.5, 1, 2)] == [
        "#000000", "#000000", "#404040", "#808080", "#ff0000", "#ff0000",
    ]  # fmt: skip


def test_undefined_scores_are_empty_cells(headmap: HeadMap) -> None:
    assert np.isnan(score_map(headmap, "made_up").data[0].z[0, 0])


def test_signed_scores_are_centred(headmap: HeadMap) -> None:
    headmap.frame["sink"] -= 0.7
    axis = score_map(headmap, "sink").layout.coloraxis
    assert axis.cmin == -axis.cmax and len(axis.colorscale) == 5


def test_unknown_column_is_named(headmap: HeadMap) -> None:
    with pytest.raises(Exception, match="Did you mean 'retrieval'"):
        score_map(headmap, "retreival")


def test_kind_map_has_one_column_per_kind(headmap: HeadMap) -> None:
    figure = kind_map(headmap, "sink_mass_", [(2, 1), (5, 3)], role="active_dormant")
    assert list(figure.data[0].x) == ["prose", "code"] and list(figure.data[0].y) == ["L2H1", "L5H3"]
    at = headmap.frame.set_index(["layer", "head"])
    assert figure.data[0].z[1, 1] == at.loc[(5, 3), "sink_mass_code"]


def test_layer_line_uses_a_logarithm_only_where_it_can() -> None:
    table = pd.DataFrame({"layer": range(5), "a": [1.0, 10, 100, 1e3, 1e4], "b": [0.0, 1, 2, 3, 1e4]})
    assert layer_line(table, "a").layout.yaxis.type == "log"
    assert layer_line(table, "b").layout.yaxis.type is None
    assert layer_line(table, "a").data[-1].y.tolist() == table["a"].tolist()


def test_label_map_names_every_head(headmap: HeadMap) -> None:
    svg = label_map(headmap)
    for row in headmap.labels().itertuples(index=False):
        assert f"<title>L{row.layer}H{row.head} (KV head {row.head // 2}): " in svg
    assert "L2H1 (KV head 0): retrieval" in svg
    assert "<b>" not in svg


def test_a_theme_changes_colours_and_no_data(headmap: HeadMap) -> None:
    light, dark = (score_map(headmap, "sink", role="sink", theme=t) for t in ("light", "dark"))
    changes = paint(light, dark)
    assert changes["layout"]["coloraxis.colorscale"][-1][1] == hues(["sink"])["sink"].dark
    assert changes["traces"][2] == {"line.color": [COLOURS["dark"]["ink"]]}
    assert all("z" not in trace for trace in changes["traces"])
    assert "</script" not in chart("x", "alt", lambda theme: score_map(headmap, "sink", theme=theme)).json


def test_new_roles_get_free_hues_and_ramps_start_empty() -> None:
    found = hues(["retrieval", "x", "y", "sink"])
    assert len({h.light for h in found.values()}) == 4
    assert ramp(found["x"], "dark")[0][1] == COLOURS["dark"]["empty"]
