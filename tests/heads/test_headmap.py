"""The HeadMap: a file that explains itself, tops, labels, comparisons, and bad files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.heads import ColumnInfo, Condition, HeadMap, MapMeta, Rule
from headscope.probes import BadFile, Geometry, HeadscopeError, UnknownName

RULE = Rule(
    role="retrieval", score="retrieval", all_of=(Condition(column="retrieval", op=">=", threshold=0.1),)
)


def geometry(layers: int = 3, heads: int = 4) -> Geometry:
    return Geometry(
        layers=layers, heads=heads, kv_heads=2, head_dim=8, value_dim=8, hidden=32, vocabulary=96,
        context=128, windows=(None,) * layers,
    )  # fmt: skip


def make(layers: int = 3, heads: int = 4, seed: int = 0) -> HeadMap:
    rng = np.random.default_rng(seed)
    layer, head = (a.reshape(-1) for a in np.indices((layers, heads)))
    frame = pd.DataFrame({
        "layer": layer, "head": head, "kv_head": head // 2,
        "retrieval": rng.random(layers * heads) ** 3, "retrieval_se": rng.random(layers * heads) / 50,
        "entropy": rng.random(layers * heads), "entropy_se": rng.random(layers * heads) / 50,
    })  # fmt: skip
    frame[RULE.column] = RULE.apply(frame)
    columns = {name: ColumnInfo(about=name) for name in ("retrieval", "entropy")}
    meta = MapMeta(
        model="toy", fingerprint="ab", geometry=geometry(layers, heads), rules=(RULE,), columns=columns
    )
    return HeadMap(frame, meta)


def test_round_trip_and_plain_readers(tmp_path: Path) -> None:
    headmap = make()
    headmap.save(tmp_path / "m.parquet")
    again = HeadMap.open(tmp_path / "m.parquet")
    pd.testing.assert_frame_equal(again.frame, headmap.frame)
    assert again.meta == headmap.meta
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "m.parquet"), headmap.frame)
    headmap.save(tmp_path / "n.parquet")
    assert (tmp_path / "m.parquet").read_bytes() == (tmp_path / "n.parquet").read_bytes()


def test_top_is_best_first_with_its_error() -> None:
    headmap = make()
    top = headmap.top("retrieval", 5)
    assert list(top) == ["layer", "head", "retrieval", "retrieval_se", "is_retrieval"]
    assert len(top) == 5
    assert top["retrieval"].is_monotonic_decreasing
    assert top["retrieval"][0] == headmap.frame["retrieval"].max()
    assert list(headmap.top("entropy", 1)) == ["layer", "head", "entropy", "entropy_se"]


def test_ties_and_missing_scores_are_ordered() -> None:
    headmap = make()
    headmap.frame["retrieval"] = [np.nan, *[0.5] * 11]
    top = headmap.top("retrieval", 12)
    assert len(top) == 11
    assert list(zip(top["layer"], top["head"], strict=True)) == sorted(
        zip(top["layer"], top["head"], strict=True)
    )


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UnknownName, match=r"no role or score 'retreival'\. Did you mean 'retrieval'"):
        make().top("retreival")
    with pytest.raises(UnknownName, match="Did you mean 'entropy'"):
        make().grid("entropie")


def test_conditions_include_their_threshold_and_never_hold_for_what_is_unknown() -> None:
    frame = pd.DataFrame({"x": [0.5, 1.0, 1.5, np.nan]})
    above, below = (Condition(column="x", op=op, threshold=1.0).holds(frame) for op in (">=", "<="))
    assert above.tolist() == [False, True, True, False]
    assert below.tolist() == [True, True, False, False]


@given(threshold=st.floats(0, 1))
def test_labels_follow_their_rule(threshold: float) -> None:
    rule = RULE.model_copy(update={"all_of": (Condition(column="retrieval", op=">=", threshold=threshold),)})
    headmap = make().relabel([rule])
    expected = headmap.frame["retrieval"] >= threshold
    assert headmap.labels()["retrieval"].tolist() == expected.tolist()
    assert headmap.meta.rules == (rule,)


def test_compare_with_itself_and_another() -> None:
    a, b = make(), make(seed=1)
    same = a.compare(a)
    assert same.scores["spearman"].tolist() == pytest.approx([1.0, 1.0])
    assert same.labels.empty
    other = a.compare(b)
    moved = a.frame["is_retrieval"] != b.frame["is_retrieval"]
    assert len(other.labels) == moved.sum()
    gap = b.frame["entropy"] - a.frame["entropy"]
    assert other.difference["entropy"].tolist() == pytest.approx(gap.tolist())
    ranks = pd.Series(a.frame["entropy"]).corr(pd.Series(b.frame["entropy"]), method="spearman")
    assert other.scores.set_index("score")["spearman"]["entropy"] == pytest.approx(ranks)


def test_compare_refuses_another_shape() -> None:
    with pytest.raises(HeadscopeError, match="3 x 4 heads and toy 2 x 4"):
        make().compare(make(layers=2))


def test_bad_files(tmp_path: Path) -> None:
    make().save(tmp_path / "first" / "headmap.parquet")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "manifest.json").touch()
    for name, says in {
        "none.parquet": "There is no run folder or head map '.*none.parquet'.$",
        "frist": "Did you mean '.*first'",
        "": "is no run: it has no headmap.parquet; runs in it: .*first.$",
        "begun": "has no head map yet",
    }.items():
        with pytest.raises(BadFile, match=says):
            HeadMap.open(tmp_path / name)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(BadFile, match="cannot be read"):
        HeadMap.open(broken)
    foreign = tmp_path / "foreign.parquet"
    pd.DataFrame({"x": [1]}).to_parquet(foreign)
    with pytest.raises(BadFile, match="was not written by headscope"):
        HeadMap.open(foreign)
    short = make()
    short.frame = short.frame.head(5)
    short.save(tmp_path / "short.parquet")
    with pytest.raises(BadFile, match="one row per head"):
        HeadMap.open(tmp_path / "short.parquet")


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadFile, match="cannot be written"):
        make().save(tmp_path / "file" / "m.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


ODD: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "a head twice": (lambda f: f.assign(layer=0), "does not have one row per head"),
    "another KV head": (lambda f: f.assign(kv_head=1), "does not have one row per head"),
    "layers from 1": (lambda f: f.assign(layer=f["layer"] + 1), "does not have one row per head"),
    "halves of layers": (lambda f: f.assign(layer=f["layer"] + 0.5), "'layer' .* does not hold whole"),
    "words for scores": (lambda f: f.assign(entropy="high"), "'entropy' .* does not hold numbers"),
    "lists of scores": (lambda f: f.assign(entropy=[[1.0]] * len(f)), "'entropy' .* does not hold numbers"),
    "words for errors": (lambda f: f.assign(entropy_se="low"), "'entropy_se' .* does not hold numbers"),
    "no score": (lambda f: f.drop(columns="retrieval"), "lacks the column 'retrieval'"),
    "no label": (lambda f: f.drop(columns=RULE.column), "lacks the column 'is_retrieval'"),
    "words for labels": (lambda f: f.assign(is_retrieval="no"), "'is_retrieval' .* does not hold true or"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), ODD.values(), ids=ODD)
def test_a_map_at_odds_with_its_metadata_is_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], says: str, tmp_path: Path
) -> None:
    good = make()
    HeadMap(change(good.frame), good.meta).save(tmp_path / "m.parquet")
    with pytest.raises(BadFile, match=says):
        HeadMap.open(tmp_path / "m.parquet")


def test_rows_may_stand_in_any_order(tmp_path: Path) -> None:
    good = make()
    HeadMap(good.frame[::-1], good.meta).save(tmp_path / "m.parquet")
    assert HeadMap.open(tmp_path / "m.parquet").top("retrieval", 3).equals(good.top("retrieval", 3))


@pytest.mark.parametrize("asked", [b"nonsense", b"{}", b'{"index_columns": ["layer"], "columns": 7}'])
def test_what_a_file_asks_of_pandas_is_not_heard(asked: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    make().save(path)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"pandas": asked}), path)
    if asked == b"nonsense":  # pyarrow reads it before it can be told not to
        with pytest.raises(BadFile, match="cannot be read"):
            HeadMap.open(path)
    else:
        pd.testing.assert_frame_equal(HeadMap.open(path).frame, make().frame)
