"""The scan end to end on the real default model: parts, resume, processes, errors, and the truth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from zoo import tiny

from headscope.heads import HeadMap, Manifest, Preset, Progress, RunFolder, read_evidence, read_json, scan
from headscope.heads.presets import Portion
from headscope.probes import TASKS, HeadscopeError, Model, Observation, Recipe, load, observe, over_prompts

pytestmark = pytest.mark.model

# Small enough for a test, large enough to exercise every task and label.
TINY = Preset(
    name="tiny", about="for tests", context=448, sample=24,
    portions=(
        Portion(task="needle", fractions=(1.0,), per_length=2),
        Portion(task="repeat", fractions=(0.5,), per_length=1),
        Portion(task="prose", fractions=(1.0,), per_length=2),
        Portion(task="code", fractions=(0.5,), per_length=1),
        Portion(task="random", fractions=(0.25,), per_length=1),
    ),
)  # fmt: skip

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from headscope.heads import scan
from headscope.probes import load
from test_scan import TINY
scan(load("smollm2"), TINY, sys.argv[1])
"""


@pytest.fixture(scope="module")
def run(smollm2: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scan, made in one process and in one go."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    scan(smollm2, TINY, folder)
    return folder


def child(folder: Path, *launcher: str) -> subprocess.Popen[bytes]:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    paths += filter(None, [os.environ.get("PYTHONPATH")])  # the child runs the code that this process runs
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    script = folder.parent / "scan_once.py"
    script.write_text(SCRIPT)
    command = [sys.executable, *launcher, str(script), str(folder)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def same_table(a: Path, b: Path) -> None:
    assert (a / "headmap.parquet").read_bytes() == (b / "headmap.parquet").read_bytes()
    assert (a / "layers.parquet").read_bytes() == (b / "layers.parquet").read_bytes()


def test_a_finished_run(run: Path) -> None:
    headmap = HeadMap.open(run)
    frame = headmap.to_frame()
    assert len(frame) == 270
    assert headmap.meta.tasks == {"needle": 2, "repeat": 1, "prose": 2, "code": 1, "random": 1}
    assert {"retrieval", "streaming", "sink", "induction", "active_dormant"} <= set(headmap.roles)
    for name, info in headmap.meta.columns.items():
        assert f"{name}_se" in frame
        if info.low is not None:
            assert frame[name].min() >= info.low - 1e-6, name
        if info.high is not None:
            assert frame[name].max() <= info.high + 1e-6, name
    manifest = read_json(RunFolder(run).manifest, Manifest)
    assert manifest.status == "done"
    assert manifest.plan.fingerprint == headmap.meta.fingerprint
    layers = pd.read_parquet(run / "layers.parquet")
    assert len(layers) == 30


def test_evidence_names_the_heaviest_keys(run: Path, smollm2: Model) -> None:
    prompts, rows = read_evidence(run / "evidence")
    needle = next(p for p in prompts if p.task == "needle")
    mine = rows[rows["prompt"] == needle.index]
    assert set(mine["row"]) == set(needle.rows)
    assert mine["key"].between(0, len(needle.tokens) - 1).all()
    assert (mine["key"] <= mine["row"]).all()
    assert mine.groupby(["layer", "head", "row"])["mass"].sum().max() <= 1 + 1e-5


def test_running_it_again_changes_nothing_and_costs_nothing(run: Path, smollm2: Model) -> None:
    before = (run / "headmap.parquet").read_bytes()
    times = {p.name: p.stat().st_mtime_ns for p in (run / "parts").iterdir()}
    scan(smollm2, TINY, run)
    assert (run / "headmap.parquet").read_bytes() == before
    assert {p.name: p.stat().st_mtime_ns for p in (run / "parts").iterdir()} == times


def test_progress_is_told(smollm2: Model, tmp_path: Path) -> None:
    told: list[Progress] = []
    only = TINY.model_copy(update={"portions": TINY.portions[1:3]})
    scan(smollm2, only, tmp_path / "run", progress=told.append)
    assert [p.done for p in told] == [0, 1, 2, 3]
    assert told[0].seconds_left is None
    assert told[-1].share == pytest.approx(1)
    assert told[-1].seconds_left == 0


@pytest.mark.parametrize("delay", [0.0, 0.7, 2.0])
def test_killed_at_any_moment_it_finishes_to_the_same_table(run: Path, tmp_path: Path, delay: float) -> None:
    folder = tmp_path / "killed"
    process = child(folder)
    deadline = time.monotonic() + 120
    while not (folder / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read().decode()  # type: ignore[union-attr]
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list((folder / "parts").glob("*.safetensors"))) if (folder / "parts").exists() else 0
    assert finished < 7
    assert child(folder).wait(180) == 0
    same_table(run, folder)


def test_two_processes_make_the_same_table(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    process = child(folder, *torchrun)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-2000:]
    same_table(run, folder)


def test_a_damaged_part_is_made_again(run: Path, smollm2: Model, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(run, folder)
    part = sorted((folder / "parts").iterdir())[0]
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    scan(smollm2, TINY, folder)
    same_table(run, folder)


def test_a_folder_of_another_scan_is_left_alone(run: Path, smollm2: Model) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    with pytest.raises(HeadscopeError, match=r"holds another scan \(seed 0, not 1\); choose another --out"):
        scan(smollm2, TINY, run, seed=1)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 9000}, "context is 9000 tokens, but 'smollm2' was built for at most 8192"),
        ({"context": 10}, "context is 10 tokens, but a scan needs at least 64"),
        ({"haystack": "Too short."}, "haystack"),
        ({"preset": "standrad"}, "Did you mean 'standard'"),
    ],
    ids=["long", "short", "haystack", "preset"],
)
def test_bad_requests_leave_nothing(
    smollm2: Model, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    arguments: dict[str, object] = {"preset": TINY} | options
    with pytest.raises(HeadscopeError, match=message):
        scan(smollm2, out=tmp_path / "run", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_nan_weights_are_named() -> None:
    broken = tiny("llama")
    with torch.no_grad():
        broken.model.layers[1].self_attn.q_proj.weight[8:16] = torch.nan  # head 1
    with pytest.raises(HeadscopeError, match=r"is not finite in layer 1, heads \[1\]"):
        load(broken)


# --- is it right? ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def needle(smollm2: Model) -> Observation:
    """A needle prompt that the model answers right."""
    for prompt in TASKS["needle"].prompts(
        smollm2.tokenizer, lengths=[320], per_length=8, seed=3, haystack=None
    ):
        found = observe(smollm2, prompt, Recipe(sample=8))
        if found.right:
            return found
    pytest.fail("The default model answers no needle at 320 tokens.")


@torch.no_grad()
def published_loop(model: Model, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
    """The greedy decode loop of the retrieval-head paper, literally, from eager attention.

    Decode token by token with a cache; at every step take each head's heaviest key of the last
    row; it scores when that key lies in the needle and holds the token just emitted.
    """
    prompt = observation.prompt
    assert prompt.answer is not None
    begin, steps = prompt.answer[0], prompt.answer[1] - prompt.answer[0]
    start, stop = prompt.spans["needle"]
    shape = (model.geometry.layers, model.geometry.heads)
    copies, sets = np.zeros(shape), [[set() for _ in range(shape[1])] for _ in range(shape[0])]
    model.hf.set_attn_implementation("eager")
    try:
        warm = model.hf(torch.tensor([prompt.ids[: begin - 1]]), use_cache=True)
        token, cache = prompt.ids[begin - 1], warm.past_key_values
        for _ in range(steps):
            step = model.hf(
                torch.tensor([[token]]), past_key_values=cache, use_cache=True, output_attentions=True
            )
            cache, token = step.past_key_values, int(step.logits[0, -1].argmax())
            for layer, weights in enumerate(step.attentions):
                for head in range(shape[1]):
                    key = int(weights[0, head, -1].argmax())
                    if start <= key < stop and prompt.ids[key] == token:
                        copies[layer, head] += 1
                        sets[layer][head].add(token)
    finally:
        model.hf.set_attn_implementation("sdpa")
    value = prompt.spans["value"]
    wanted = set(prompt.ids[slice(*prompt.answer)])
    share = np.array([[len(s & wanted) / len(wanted) for s in row] for row in sets])
    return share, copies / (value[1] - value[0])


def test_retrieval_equals_the_published_loop(smollm2: Model, needle: Observation) -> None:
    from headscope.heads.detectors.retrieval import set_score, sum_score

    by_set, by_sum = published_loop(smollm2, needle)
    np.testing.assert_allclose(set_score(needle), by_set)
    np.testing.assert_allclose(sum_score(needle), by_sum)
    assert by_set.max() > 0.5  # otherwise two empty loops would agree


def test_sampled_means_lie_within_their_error_bars(smollm2: Model) -> None:
    """Against all rows of the same texts: within 3 standard errors for at least 99% of heads."""
    texts = TASKS["prose"].prompts(smollm2.tokenizer, lengths=[256], per_length=3, seed=0, haystack=None)
    sampled = [observe(smollm2, p, Recipe(sample=64)) for p in texts]
    exact = [observe(smollm2, p, Recipe(sample=10_000)) for p in texts]
    for statistic in ("first_1", "entropy", "recent_64", "activity", "top_mass"):
        estimate = over_prompts([o.mean[statistic] for o in sampled], [o.var[statistic] for o in sampled])
        truth = over_prompts([o.mean[statistic] for o in exact]).value
        assert all(float(o.var[statistic].max()) == 0 for o in exact)
        inside = np.abs(estimate.value - truth) <= 3 * estimate.se + 1e-6
        assert inside.mean() >= 0.99, statistic


def test_bfloat16_tells_the_same_story(run: Path) -> None:
    """In half precision scores move a little and ranks hardly: stated tolerance 0.05 on means."""
    model = load("smollm2", dtype="bfloat16")
    text = TASKS["prose"].prompts(model.tokenizer, lengths=[192], per_length=1, seed=0, haystack=None)[0]
    low, full = observe(model, text), observe(load("smollm2"), text)
    for statistic in ("first_1", "entropy", "recent_64", "first_4"):
        gap = np.abs(low.mean[statistic] - full.mean[statistic])
        assert gap.max() < 0.05, statistic
    assert model.fingerprint == HeadMap.open(run).meta.fingerprint
