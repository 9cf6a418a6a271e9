"""Policies and maps in other programs' formats: what they say there, what is lost, how they are written."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from formats_zoo import LLAMA2, MISTRAL, policy, shape
from hypothesis import given
from hypothesis import strategies as st

from headscope.heads import FORMATS, HeadMap, Known, Options, Policy, Window, export, import_map
from headscope.probes import BadFile, HeadscopeError, UnknownName

W, WIDE = Window(sink=64, recent=256), Window(sink=128, recent=512)
MIXED = [[None, W], [W, W], [None, None]]
SCORES = [[0.5, 0.125], [0.25, 0.0625], [0.75, 1.5]]
FROM_POLICY = [f.name for f in FORMATS if f.from_policy]
FROM_MAP = [f.name for f in FORMATS if f.from_map]

rows = st.lists(st.lists(st.sampled_from([None, W]), min_size=2, max_size=2), min_size=1, max_size=6)


def duo_selection(table: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which groups DuoAttention keeps whole: clipped, noise against ties, a quantile. [L, Hkv]"""
    noisy = np.clip(table, 0, 1) + np.random.default_rng(seed).uniform(0, 1e-6, table.shape)
    if share >= 1 or share <= 0:
        share = 2.0 if share >= 1 else -1.0
        return np.full(table.shape, share < 0)
    return noisy >= np.quantile(noisy, share)


@given(rows, st.integers(0, 3))
def test_duo_attention_finds_exactly_the_policys_groups(kept: list[list[Window | None]], seed: int) -> None:
    made = FORMATS["duo-attention"].from_policy(policy(kept), Path("x"), Options())
    table = np.loadtxt(made.files["full_attention_heads.tsv"].splitlines(), ndmin=2)
    share = json.loads(made.files["config.json"])["sparsity"]
    truth = np.array([[span is None for span in row] for row in kept])
    np.testing.assert_array_equal(duo_selection(table, share, seed), truth)
    assert f"sparsity={share!r})" in made.usage


def test_omniserve_gets_its_flags(tmp_path: Path) -> None:
    made = export(policy([[None, Window(sink=4, recent=100)]]), "omniserve", tmp_path / "a b")
    words = shlex.split(made.usage)
    flags = dict(pairwise(words))
    expected = {
        "--static-sparse-attn-load-dir": str(tmp_path / "a b"), "--static-sparsity": "0.5",
        "--ctx-sink-token": "4", "--ctx-local-token": "100", "--dec-sink-token": "64",
        "--dec-local-token": "128", "--sparse-decode-mode": "0",
    }  # fmt: skip
    assert expected.items() <= flags.items() and "--sparse-context-mode" in words
    assert [loss.error for loss in made.losses] == [0.0] and "64 + 128" in str(made.losses[0])


def test_several_windows_become_the_one_that_holds_them() -> None:
    made = FORMATS["duo-attention"].from_policy(policy([[WIDE, W]]), Path("x"), Options())
    assert json.loads(made.files["config.json"])["sink_size"] == 128
    assert [str(loss) for loss in made.losses] == [
        "The common window of 128 + 512 keys is larger than that of 1 KV group; that adds no error."
    ]


def test_heads_that_read_less_than_their_group_are_counted() -> None:
    reads = [[W, None, None, W, W, W]]
    finer = policy([[None, W]], compute=reads)
    made = FORMATS["duo-attention"].from_policy(finer, Path("x"), Options())
    assert "needed by 1 query head;" in str(made.losses[0])
    patterns = json.loads(FORMATS["minference"].from_policy(finer, Path("x"), Options()).files[""])
    assert patterns[0]["0"] == patterns[0]["3"] == ["stream_llm", 64, 256, 0]
    kind, _, local, _ = patterns[0]["1"]
    assert kind == "stream_llm" and local > 1 << 24  # longer than any prompt: everything
    alphas = json.loads(FORMATS["moa"].from_policy(finer, Path("x"), Options()).files[""])
    assert alphas["alphas"][0][:2] == [320, 0] and alphas["betas"][0][:2] == [0, 1]


def test_minference_output_is_what_its_reader_takes(tmp_path: Path) -> None:
    """Its loader needs CUDA to install; this is what it does with the file, layer by layer."""
    export(policy(MIXED), "minference", tmp_path / "m.json")
    layers = json.loads((tmp_path / "m.json").read_text())
    for layer in layers:
        best = {int(head): pattern for head, pattern in layer.items()}
        assert sorted(best) == list(range(6))
        for kind, vertical, slash, _ in best.values():
            assert kind in ("stream_llm", "vertical_and_slash", "block_sparse")
            assert isinstance(vertical, int) and isinstance(slash, int)


@pytest.mark.parametrize(
    ("layers", "windows", "error", "layer"),
    [("all", [4096, 320, 4096], 0.0, None), ("most", [320, 320, 4096], 0.5, 0)],
)
def test_tensorrt_llm_streams_whole_layers(
    layers: str, windows: list[int], error: float, layer: int | None
) -> None:
    options = Options(layers=layers)
    made = FORMATS["tensorrt-llm"].from_policy(policy(MIXED, SCORES), Path("x"), options)
    lines = made.files[""].splitlines()
    assert lines[0] == "kv_cache_config:" and lines[2] == "  sink_token_length: 64"
    assert json.loads(lines[1].removeprefix("  max_attention_window: ")) == windows
    assert max(loss.error for loss in made.losses) == error
    assert [loss.layer for loss in made.losses if loss.error] == ([layer] if error else [])


@pytest.mark.parametrize(
    ("by", "window", "known"),
    [("error", W, True), ("group_cut_error_answer", WIDE, True), ("gate", W, False),
     ("pattern_error", W, False), ("error", Window(sink=64, recent=255), False)],
    ids=str,
)  # fmt: skip
def test_an_added_error_is_a_number_only_where_one_was_measured(by: str, window: Window, known: bool) -> None:
    kept = [[None, None, window], [None, window, window]]
    made = FORMATS["tensorrt-llm"].from_policy(
        policy(kept, [[0.25, 0.5, 0.1], [0.125, 0, 0]], by), Path("x"), Options(layers="any")
    )
    cut = [loss for loss in made.losses if loss.what.startswith("Cut")]
    assert [(loss.error, loss.layer) for loss in cut] == [(0.75, 0) if known else (None, None)]
    assert ("at most 0.75 of the attention output of layer 0" in str(cut[0])) == known
    assert ("is unknown." in str(cut[0])) != known


def test_layer_types_has_one_window_and_no_sinks() -> None:
    make = FORMATS["layer-types"].from_policy
    made = make(policy(MIXED), Path("x"), Options())
    assert json.loads(made.files[""]) == {
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "use_sliding_window": True, "sliding_window": 256,
    }  # fmt: skip
    assert any(loss.error is None and "first 64 tokens" in loss.what for loss in made.losses)
    own = policy(MIXED, windows=(None, None, 4096))
    with pytest.raises(HeadscopeError, match="one sliding window, but the model has 4096 and the policy 256"):
        make(own, Path("x"), Options())
    assert "sliding_window" not in json.loads(make(policy([[None, W]]), Path("x"), Options()).files[""])


@given(rows)
def test_headscopes_own_file_is_the_policy(kept: list[list[Window | None]]) -> None:
    source = policy(kept)
    made = FORMATS["headscope"].from_policy(source, Path("x"), Options())
    assert Policy.model_validate_json(made.files[""]) == source and made.losses == ()


def scanned(**columns: list[list[float]]) -> HeadMap:
    """A map of 2 layers of 4 heads in 2 groups, with the given [L, H] columns."""
    found = import_map(LLAMA2, "duo-attention")
    g = shape(2, 4, 2)
    layer, head = (axis.reshape(-1) for axis in np.indices((2, 4)))
    frame = pd.DataFrame({"layer": layer, "head": head, "kv_head": head // 2})
    for name, values in columns.items():
        frame[name] = np.asarray(values, float).reshape(-1)
    info = found.meta.columns["gate"]
    update = {"geometry": g, "columns": dict.fromkeys(columns, info), "settings": {}, "preset": "quick"}
    return HeadMap(frame, found.meta.model_copy(update=update))


def test_errors_of_a_scan_go_out_as_ranks_with_the_unknown_on_top(tmp_path: Path) -> None:
    nan = float("nan")
    found = scanned(group_cut_error=[[3, 3, 0.5, 0.5], [0.1, 0.1, nan, nan]])
    made = export(found, "duo-attention", tmp_path / "out")
    table = np.loadtxt(tmp_path / "out" / "full_attention_heads.tsv", ndmin=2)
    assert table.tolist() == [[1.0, 0.5], [0.0, 1.0]]
    assert any("its ranks stand" in loss.what for loss in made.losses)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"model_name": found.meta.model, "sink_size": 64, "recent_size": 256}


def test_ties_at_the_cut_and_heads_that_differ_are_said(tmp_path: Path) -> None:
    found = scanned(mine=[[0.5, 0.25, 0.5, 0], [0.5, 0, 1, 1]])
    made = export(found, "kvpress", tmp_path / "k.json", Options(score="mine"))
    text = " ".join(map(str, made.losses))
    assert (
        "by chance among 3 of 4 KV groups, whose scores tie at the cut of 0.5" in text
        and "is unknown" in text
    )
    assert "the highest mine of them" in text
    assert json.loads((tmp_path / "k.json").read_text())["scores"] == [[0.5, 0.5], [0.5, 1.0]]
    with pytest.raises(HeadscopeError, match="Known: mine"):
        export(found, "kvpress", tmp_path / "k.json")
    with pytest.raises(UnknownName, match="Did you mean 'mine'"):
        export(found, "kvpress", tmp_path / "k.json", Options(score="min"))


def test_what_a_format_needs_is_said(tmp_path: Path) -> None:
    gates, target = import_map(MISTRAL, "duo-attention"), tmp_path / "x"
    for format in FORMATS.names():
        if format not in FROM_MAP:
            with pytest.raises(HeadscopeError, match="export a policy of it"):
                export(gates, format, target)
        if format not in FROM_POLICY:
            with pytest.raises(HeadscopeError, match="export the head map"):
                export(policy(MIXED), format, target)
    for format in ("minference", "moa", "retrieval-heads", "qrhead"):
        with pytest.raises(HeadscopeError, match="head map has n"):
            export(gates, format, target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FROM_POLICY)
def test_an_export_is_written_whole_or_not_at_all(format: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadFile, match="cannot be written"):
        export(policy(MIXED), format, tmp_path / "file" / "out")
    for _ in range(2):  # a second export takes the place of the first
        export(policy(MIXED), format, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(HeadscopeError, match="holds other files already"):
        export(policy(MIXED), "duo-attention", tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HeadscopeError, match="is not a folder"):
        export(policy(MIXED), "duo-attention", tmp_path / "link")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "notes.txt"]


def test_a_ratio_of_an_imported_map_agrees_with_duo_attention() -> None:
    """Beyond ties, the policy that headscope makes of gates is the one DuoAttention runs."""
    gates = import_map(LLAMA2, "duo-attention", Known())
    table = gates.grid("gate").to_numpy()
    chosen = np.array([[s is None for s in row] for row in gates.policy(ratio=0.5, by="gate").retain])
    assert (chosen == duo_selection(table, 0.5, 0)).all()


def test_choices_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    gates = import_map(MISTRAL, "duo-attention")
    for source, format, options in (
        (gates, "duo-attention", Options(layers="most")),
        (gates, "minference", Options(score="gate")),
        (policy(MIXED), "layer-types", Options(score="gate")),
    ):
        with pytest.raises(HeadscopeError, match="leaves no choice of --"):
            export(source, format, tmp_path / "x", options)
    with pytest.raises(HeadscopeError, match="exported as it is"):
        export(policy(MIXED), "kvpress", tmp_path / "x", Options(score="gate"))


def test_a_failed_swap_keeps_the_older_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    export(policy([[None, W]]), "duo-attention", target)
    before = (target / "config.json").read_text()
    rename = Path.rename

    def refuse(self: Path, to: Path) -> Path:
        if to == target and not self.name.endswith(".old"):
            raise OSError(13, "Permission denied")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BadFile, match="Permission denied"):
        export(policy([[W, W]]), "duo-attention", target)
    assert (target / "config.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_gates_trained_here_carry_their_windows(tmp_path: Path) -> None:
    own = scanned(gate=[[1, 1, 0, 0], [0.25, 0.25, 0.5, 0.5]])
    update = {"fingerprint": "ab", "settings": {"sink_size": 4, "recent_size": 60}, "preset": "gates"}
    export(HeadMap(own.frame, own.meta.model_copy(update=update)), "duo-attention", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"model_name": own.meta.model, "sink_size": 4, "recent_size": 60}
    again = import_map(tmp_path / "out", "duo-attention", Known(heads=4))
    assert again.grid("gate").equals(own.grid("gate"))
