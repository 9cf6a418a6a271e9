"""Files of other programs as head maps: what they say, and what is refused in one sentence."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from formats_zoo import LLAMA2, MINFERENCE, MISTRAL, MOA, policy, shape, write
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headscope.heads import FORMATS, HeadMap, Known, Window, export, import_map
from headscope.heads.scoretable import read_table_text, table_text
from headscope.probes import BadFile, HeadscopeError, UnknownName

IMPORTS = [f.name for f in FORMATS if f.read]
TABLE = "full_attention_heads.tsv"


@pytest.mark.parametrize("folder", [LLAMA2, MISTRAL], ids=lambda p: p.name)
@pytest.mark.parametrize("format", ["duo-attention", "omniserve"])
def test_a_published_folder_comes_back_byte_for_byte(folder: Path, format: str, tmp_path: Path) -> None:
    headmap = import_map(folder, format)
    headmap.save(tmp_path / "map.parquet")
    export(HeadMap.open(tmp_path / "map.parquet"), format, tmp_path / "again")
    for name in (TABLE, "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == ["config.json", TABLE]


def test_gates_are_what_numpy_reads_on_every_query_head() -> None:
    truth = np.loadtxt(MISTRAL / TABLE, delimiter="\t")
    alone = import_map(MISTRAL, "duo-attention")
    assert alone.meta.model == "Mistral-7B-Instruct-v0.2" and alone.meta.preset == "duo-attention"
    assert alone.meta.fingerprint == "" and alone.meta.settings["sink_size"] == 128
    np.testing.assert_array_equal(alone.grid("gate").to_numpy(), truth)
    assert truth.min() < 0  # published gates are not clamped
    grouped = import_map(MISTRAL, "duo-attention", Known(heads=32))
    assert grouped.meta.geometry.group_size == 4
    np.testing.assert_array_equal(grouped.grid("gate").to_numpy(), truth.repeat(4, axis=1))
    np.testing.assert_array_equal(np.asarray(grouped.policy(ratio=0.5, by="gate").scores), truth)


def test_a_query_head_map_of_a_grouped_model_goes_out_by_groups(tmp_path: Path) -> None:
    export(import_map(MISTRAL, "duo-attention", Known(heads=32)), "duo-attention", tmp_path / "out")
    assert (tmp_path / "out" / TABLE).read_bytes() == (MISTRAL / TABLE).read_bytes()


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)),
                  elements=st.floats(allow_nan=False, allow_infinity=False)))  # fmt: skip
def test_any_table_survives(table: np.ndarray) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"headscope-table-{os.getpid()}.tsv"
    try:
        path.write_text(table_text(table))
        np.testing.assert_array_equal(read_table_text(path), table)
        np.testing.assert_array_equal(np.atleast_2d(np.loadtxt(path, delimiter="\t", ndmin=2)), table)
    finally:
        path.unlink(missing_ok=True)


def test_minference_says_which_way_its_score_points(tmp_path: Path) -> None:
    found = import_map(MINFERENCE, "minference")
    assert "lower is better" in found.meta.columns["pattern_error"].about
    assert found.grid("pattern_error").iloc[0, 1] == 26473
    assert set(found.frame["pattern"]) == {"vertical_and_slash"}
    export(found, "minference", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(MINFERENCE.read_text())
    for scores, column in (([0.3, 1], "pattern_recall"), ([-3, 0.5], "pattern_score")):
        layer = {str(i): ["stream_llm", 100, 800, s] for i, s in enumerate(scores)}
        again = import_map(write(tmp_path / "f.json", [layer]), "minference")
        assert list(again.meta.columns) == [column]


def test_moa_comes_back_byte_for_byte(tmp_path: Path) -> None:
    found = import_map(MOA, "moa", Known(kv_heads=8))
    assert found.meta.model == "Llama-3.2-1B-Instruct" and found.meta.geometry.kv_heads == 8
    assert found.frame["moa_alpha"].min() == -1024
    export(found, "moa", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == MOA.read_bytes()


@given(st.lists(st.lists(st.one_of(st.integers(0, 3), st.floats(0, 3)), min_size=1, max_size=5),
                min_size=6, max_size=6))  # fmt: skip
def test_score_lists_keep_their_means_and_errors(lists: list[list[float]]) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"headscope-lists-{os.getpid()}.json"
    try:
        write(path, {f"{i // 3}-{i % 3}": scores for i, scores in enumerate(lists)})
        found = import_map(path, "retrieval-heads")
        means = [np.mean(scores) for scores in lists]
        assert found.frame["retrieval_sum"].tolist() == pytest.approx(means)
        assert found.frame["is_retrieval"].tolist() == (found.frame["retrieval_sum"] >= 0.1).tolist()
        errors = [np.std(s, ddof=1) / len(s) ** 0.5 if len(s) > 1 else np.nan for s in lists]
        assert found.frame["retrieval_sum_se"].tolist() == pytest.approx(errors, nan_ok=True)
        export(found, "retrieval-heads", path)
        again = import_map(path, "retrieval-heads")
        assert again.frame["retrieval_sum"].tolist() == found.frame["retrieval_sum"].tolist()
    finally:
        path.unlink(missing_ok=True)


QRHEAD = """# Default configuration

attn_head_set: "8-21,8-14,0-3" # top3
model_base_class: "Llama"
model_name_or_path: 'org/Llama'
"""


def test_a_head_list_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "heads.yaml"
    path.write_text(QRHEAD)
    with pytest.raises(BadFile, match="give --layers and --heads"):
        import_map(path, "qrhead")
    found = import_map(path, "qrhead", Known(layers=16, heads=32))
    assert [(i, j) for i, j in found.top("query_focused", 3)[["layer", "head"]].to_numpy()] == [
        (8, 21), (8, 14), (0, 3)
    ]  # fmt: skip
    assert found.frame["is_query_focused"].sum() == 3 and found.meta.model == "Llama"
    export(found, "qrhead", tmp_path / "again.yaml")
    assert 'attn_head_set: "8-21,8-14,0-3"' in (tmp_path / "again.yaml").read_text()
    assert import_map(tmp_path / "again.yaml", "qrhead", Known(layers=16, heads=32)).meta == found.meta
    with pytest.raises(BadFile, match="lists L8H21, which a model of 4 layers of 32 heads does not have"):
        import_map(path, "qrhead", Known(layers=4, heads=32))


def test_a_policy_is_a_map_of_what_it_decided(tmp_path: Path) -> None:
    w = Window(sink=4, recent=16)
    policy([[None, w], [w, w], [None, None]], [[3, 1], [0.5, 0.25], [4, 5]]).save(tmp_path / "p.json")
    found = import_map(tmp_path / "p.json", "headscope")
    assert found.grid("keeps_all").to_numpy()[:, ::3].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert found.grid("policy_score").to_numpy()[:, ::3].tolist() == [[3, 1], [0.5, 0.25], [4, 5]]


def test_the_shape_of_a_known_map_completes_the_file() -> None:
    like = shape(32, 32, 8)
    assert import_map(MISTRAL, "duo-attention", Known(like=like, model="mine")).meta.geometry == like
    with pytest.raises(BadFile, match="has 8 KV heads, but the model is said to have 2"):
        import_map(MISTRAL, "duo-attention", Known(like=shape(32, 32, 2)))
    with pytest.raises(BadFile, match="cannot be of a model whose 30 query heads share 8 KV heads"):
        import_map(MISTRAL, "duo-attention", Known(heads=30))


DEEP = "[" * 200_000
HOSTILE = {
    "empty": b"", "nul": b"\0" * 1000, "binary": b"\xff\xfe\x00\x01" * 50, "text": b"hello world\n",
    "nan": b"nan\t1\n1\t1\n", "ragged": b"1\t2\n3\n", "infinite": b"1e999\t0\n", "deep": DEEP.encode(),
    "deep names": ('{"a":' * 100_000).encode(), "json nan": b'{"0-0": [NaN], "alphas": [[NaN]]}',
    "twice": b'{"0-0": [1], "0-0": [2]}', "number": b"7", "null": b"null", "list": b"[]", "lists": b"[[],[]]",
    "odd heads": b'{"0-0": [1], "7-9": [2], "x": [3]}', "far head": b'{"0-0": [1], "99999-9": [1]}',
    "no scores": b'{"0-0": []}', "words": b'{"0-0": ["a"]}', "true": b'{"alphas": [[true]], "betas": [[1]]}',
    "two shapes": b'{"alphas": [[1]], "betas": [[1, 2]]}', "large int": b'{"0-0": [' + b"9" * 5000 + b"]}",
    "ragged json": b'{"alphas": [[1, 2], [1]], "betas": [[1, 2], [1]]}',
    "pattern": b'[{"0": ["zigzag", 1, 2, 3]}]', "short pattern": b'[{"0": ["stream_llm", 1, 2]}]',
    "odd names": b'[{"1": ["stream_llm", 1, 2, 3]}]', "negative": b'[{"0": ["stream_llm", -1, 2, 3]}]',
    "yaml": b"attn_head_set: [1, 2]\n", "yaml heads": b'attn_head_set: "1-2,1-2"\n',
    "yaml far": b'attn_head_set: "1-999999999999"\n', "yaml none": b'other: "x"\n',
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("format", IMPORTS)
def test_malformed_files_are_refused_in_one_sentence(format: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    known = Known(layers=4, heads=4) if format == "qrhead" else Known()
    try:
        import_map(path, format, known)
    except BadFile as error:
        assert "file" in str(error) and "\n" not in str(error) and str(error).endswith(".")
        assert len(str(error)) < 400
    else:  # what one format refuses another may mean
        meant = {"twice", "number", "true"} if format in ("duo-attention", "omniserve") else set()
        assert {name for name, c in HOSTILE.items() if c == content} <= meant


JUNK = [None, True, -1, 0, 1e308, 10**400, "x", "", [], {}, [[]], float("nan"), 1.5, "0-0", {"a": 1}]
SEEDS: dict[str, object] = {
    "minference": [{"0": ["stream_llm", 1, 2, 0.5], "1": ["block_sparse", 8, 1, 3]}] * 2,
    "moa": {"alphas": [[1, 2], [3, 4]], "betas": [[0, 1], [1, 0.5]]},
    "retrieval-heads": {"0-0": [1, 0.5], "0-1": [0], "1-0": [2], "1-1": [0.25]},
    "headscope": json.loads(policy([[None, Window(sink=1, recent=2)]], [[1, 2]]).model_dump_json()),
}


def mutated(value: object, chance: random.Random) -> object:
    """A JSON value with some of its parts replaced, removed or added."""
    if chance.random() < 0.1:
        return chance.choice(JUNK)
    if isinstance(value, list):
        parts = [mutated(part, chance) for part in value if chance.random() > 0.05]
        return [*parts, chance.choice(JUNK)] if chance.random() < 0.05 else parts
    if isinstance(value, dict):
        names = {n: n if chance.random() > 0.05 else chance.choice(["0-7", "9", "betas"]) for n in value}
        return {names[name]: mutated(part, chance) for name, part in value.items()}
    return value


@pytest.mark.parametrize("format", SEEDS)
@given(chance=st.randoms(use_true_random=False))
def test_nothing_but_a_map_or_one_sentence_comes_of_any_json(format: str, chance: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "file", mutated(SEEDS[format], chance))
        try:
            import_map(path, format)
        except BadFile as error:
            assert "\n" not in str(error) and str(error).endswith(".") and len(str(error)) < 500


@pytest.mark.parametrize("format", IMPORTS)
def test_huge_files_are_refused_by_their_size(format: str, tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    began = time.perf_counter()
    with pytest.raises(BadFile, match="104,857,600 bytes"):
        import_map(path, format)
    assert time.perf_counter() - began < 1
    for special in ("/dev/zero", str(tmp_path / "none")):
        with pytest.raises(BadFile):
            import_map(special, format)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"retain": [[None]]}, "retain must have 1 layers of 2 entries"),
        ({"geometry": {"windows": []}}, "one entry for each of 1 layers"),
        ({"geometry": {"kv_heads": 4}}, "6 query heads cannot share 4 KV heads"),
        ({"geometry": {"layers": 0}}, "geometry.layers"),
        ({"retain": [[None, {"sink": 0, "recent": 0}]]}, "greater than or equal to 1"),
        ({"scores": [[float("inf"), 0]]}, "finite number"),
        ({"schema_version": 2}, "schema_version"),
    ],
    ids=str,
)
def test_malformed_policies_are_refused_in_one_sentence(
    change: dict[str, object], reason: str, tmp_path: Path
) -> None:
    content = json.loads(policy([[None, Window(sink=4, recent=16)]]).model_dump_json())
    for name, value in change.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    with pytest.raises(BadFile, match=reason) as caught:
        import_map(write(tmp_path / "p.json", content), "headscope")
    assert "\n" not in str(caught.value)


def test_a_folder_must_be_whole_and_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "duo"
    folder.mkdir()
    (folder / TABLE).write_text("1.0\t0.5\n")
    with pytest.raises(BadFile, match=r"has no config\.json"):
        import_map(folder, "duo-attention")
    for settings, reason in (
        ({"sink_size": 4}, "gives recent_size as None"),
        ({"sink_size": 4, "recent_size": 0}, "1 or more"),
        ({"sink_size": True, "recent_size": 8}, "gives sink_size as True"),
        ([], "does not hold named settings"),
    ):
        write(folder / "config.json", settings)
        with pytest.raises(BadFile, match=reason):
            import_map(folder, "duo-attention")
    write(folder / "config.json", {"sink_size": 4, "recent_size": 8})
    assert import_map(folder, "duo-attention").meta.settings == {"sink_size": 4, "recent_size": 8}
    outside = tmp_path / "elsewhere.tsv"
    (folder / TABLE).rename(outside)
    (folder / TABLE).symlink_to(outside)
    with pytest.raises(BadFile, match="leads out of its folder"):
        import_map(folder, "duo-attention")
    (folder / "inside.tsv").write_text("1.0\t0.5\n")
    (folder / TABLE).unlink()
    (folder / TABLE).symlink_to("inside.tsv")
    assert len(import_map(folder, "duo-attention").frame) == 2


def test_names_and_directions() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'duo-attention'"):
        import_map(LLAMA2, "duo-atention")
    with pytest.raises(HeadscopeError, match="none can be imported"):
        import_map(LLAMA2, "layer-types")
    assert {f.name for f in FORMATS if f.from_map or f.from_policy} == set(FORMATS.names())
