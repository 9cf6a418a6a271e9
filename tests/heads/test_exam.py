"""The exam: every detector finds the planted heads and no others, and broken detectors fail it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner
from zoo import eager_attentions

from headscope.app.cli import app
from headscope.heads import (
    DETECTORS,
    EXAM,
    Examination,
    Grade,
    HeadMap,
    Manifest,
    RunFolder,
    examine,
    grade,
    read_json,
    scan,
)
from headscope.heads.detect import detect
from headscope.heads.parts import read_part
from headscope.probes import (
    PLANTED,
    TASKS,
    HeadscopeError,
    Observation,
    Prompt,
    UnknownName,
    over_prompts,
    plant,
    planted_haystack,
    planted_truth,
)
from headscope.probes.toys.planted import spaces

retrieval = importlib.import_module("headscope.heads.detectors.retrieval")
induction = importlib.import_module("headscope.heads.detectors.induction")
dormant = importlib.import_module("headscope.heads.detectors.dormant")
sink = importlib.import_module("headscope.heads.detectors.sink")
streaming = importlib.import_module("headscope.heads.detectors.streaming")
entropy = importlib.import_module("headscope.heads.detectors.entropy")
headrows = importlib.import_module("headscope.probes.headrows")
measures = importlib.import_module("headscope.sinks.measures")

ROLES = {
    "active_dormant", "echo", "hidden_sink", "induction", "previous_token", "retrieval", "sink",
    "streaming", "uniform",
}  # fmt: skip
ONE = "planted-groups"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All planted models on disk."""
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def sat(folder: Path) -> Examination:
    """The whole exam, on models read back from disk."""
    return examine(write=folder)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[HeadMap, list[Observation]]:
    """What the scan of one model saw, to be judged again by broken detectors."""
    run = RunFolder(tmp_path_factory.mktemp("run") / "scan")
    headmap = scan(plant(ONE), EXAM, run.path, haystack=planted_haystack())
    plan = read_json(run.manifest, Manifest).plan
    return headmap, [read_part(run.part(key)) for key in plan.parts]


def failed(grades: list[Grade]) -> set[str]:
    return {g.role for g in grades if not g.passed}


def test_every_role_is_found_exactly(sat: Examination) -> None:
    wrong = [(g.model, g.role, g.missed, g.invented) for g in sat.grades if not g.passed]
    assert not wrong
    assert sat.passed
    assert {(g.model, g.role) for g in sat.grades} == {(m, r) for m in PLANTED for r in ROLES}
    for g in sat.grades:
        assert g.planted >= 1
        assert g.margin is not None and g.margin > 0.03, g


def test_the_guide_quotes_this_exam(sat: Examination) -> None:
    """`headscope exam --json > benchmarks/results/exam.json` writes it anew."""
    file = Path(__file__).parents[2] / "benchmarks" / "results" / "exam.json"
    quoted = Examination.model_validate_json(file.read_text())
    for then, now in zip(quoted.grades, sat.grades, strict=True):
        assert then.model_dump(exclude={"margin", "closest"}) == now.model_dump(exclude={"margin", "closest"})
        assert then.margin == pytest.approx(now.margin, abs=2e-3)
    assert quoted.answered == sat.answered


def test_the_planted_models_answer(sat: Examination) -> None:
    assert sat.answered == {name: {"needle": 1.0, "passkey": 1.0} for name in PLANTED}


def test_every_label_of_every_detector_is_graded(sat: Examination) -> None:
    """But for the labels that take pictures: the planted models see none."""
    labels = {
        rule.role for detector in DETECTORS for rule in detector.rules if detector.name != "vision_aware"
    }
    assert labels | {"uniform"} == ROLES
    assert sat.ungraded == ()


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_plain_transformers_sees_what_was_planted(name: str, folder: Path, sat: Examination) -> None:
    """The folder needs no headscope: its model attends, and answers, as `truth.json` says."""
    model = AutoModelForCausalLM.from_pretrained(folder / name).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / name)
    truth = json.loads((folder / name / "truth.json").read_text())
    text = planted_haystack()[:1500] + " On the last day of school, Clara was given the amber turtle violin. "
    ask = [{"role": "user", "content": text + planted_haystack()[1500:3000] + " What was Clara given?"}]
    prompt = tokenizer.apply_chat_template(ask, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt + "Clara was given the", return_tensors="pt", add_special_tokens=False).input_ids
    told = model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(told).split() == ["amber", "turtle", "violin"]
    weights = eager_attentions(model, input_ids=ids)
    n = ids.shape[1]
    for head in truth["heads"]:
        found = weights[head["layer"]][0, head["head"]]
        if head["circuit"].startswith("back"):
            distance = int(head["circuit"].removeprefix("back"))
            assert found.diagonal(-distance)[1:].min() > 0.99
        expected = {
            "previous": lambda w: w.diagonal(-1), "sink": lambda w: w[:, 0], "second": lambda w: w[2:, 1],
            "part_sink": lambda w: w[1:, 0] + 0.8, "loud_sink": lambda w: w[1:, 0] + 0.2,
            "part_previous": lambda w: w.diagonal(-1)[1:] + 0.7,
            "uniform": lambda w: w * torch.arange(1, n + 1)[:, None] + torch.ones(n, n).triu(1),
        }  # fmt: skip
        if head["circuit"] in expected:
            torch.testing.assert_close(
                expected[head["circuit"]](found).mean(), torch.tensor(1.0), atol=0.03, rtol=0
            )


def test_codes_are_apart() -> None:
    product = spaces.codes() @ spaces.codes().T
    assert (product.diagonal() == spaces.CODE).all()
    assert (product - product.diagonal().diag()).max() <= 12
    assert (spaces.codes().sum(-1) == 0).all()


class Broken:
    """Ways to break a detector: what is patched, and which roles must then fail."""

    @staticmethod
    def needle_only(seen: Observation) -> np.ndarray:
        start, stop = seen.prompt.spans["needle"]
        key = seen.exact["top_key"][..., 0]
        return np.asarray((key >= start) & (key < stop))

    @staticmethod
    def second_token(seen: list[Observation]) -> Any:
        return over_prompts([o.mean["first_4"] - o.mean["first_1"] for o in seen])


MUTATIONS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], set[str]]] = {
    "retrieval without the token's identity": (
        lambda m: m.setattr(retrieval, "copied", Broken.needle_only), {"retrieval"},
    ),
    "retrieval of wrong answers only": (
        lambda m: m.setattr(retrieval, "_right", lambda seen, task: []), {"retrieval"},
    ),
    "echo for induction": (
        lambda m: m.setitem(
            induction._COLUMNS, "induction", ("offset_echo", induction._COLUMNS["induction"][1])
        ),
        {"induction"},
    ),
    "induction for the previous token": (
        lambda m: m.setitem(
            induction._COLUMNS, "previous_token",
            ("offset_induction", induction._COLUMNS["previous_token"][1]),
        ),
        {"previous_token"},
    ),
    "sink on the tokens after the first": (
        lambda m: m.setattr(sink, "first_token_mass", Broken.second_token), {"sink"},
    ),
    "hidden sinks from the first token on": (
        lambda m: m.setattr(measures, "_FIRST", 0), {"hidden_sink"},
    ),
    "dormant without a drained value": (
        lambda m: m.setattr(dormant, "DORMANT_ACTIVITY", np.inf), {"active_dormant"},
    ),
    "awake on another drained token": (
        lambda m: m.setattr(dormant, "AWAKE_ACTIVITY", 0.0), {"active_dormant"},
    ),
    "streaming by the mass kept, as if it were the error": (
        lambda m: m.setitem(
            streaming._COLUMNS, "cut_error", ("kept_64_256", 1.0, "mass kept in place of the error")
        ),
        {"streaming"},
    ),
    "entropy of the heaviest key": (
        lambda m: m.setattr(entropy, "on_kind", lambda seen, _: measures.first_token_mass(seen)), {"uniform"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_detector_fails(
    name: str, seen: tuple[HeadMap, list[Observation]], monkeypatch: pytest.MonkeyPatch
) -> None:
    headmap, observations = seen
    assert not failed(grade(headmap, planted_truth(ONE)))
    breaks, roles = MUTATIONS[name]
    breaks(monkeypatch)
    frame, about, rules = detect(observations, headmap.meta.geometry)
    broken = HeadMap(frame, headmap.meta.model_copy(update={"columns": about, "rules": rules}))
    assert failed(grade(broken, planted_truth(ONE))) == roles


@pytest.mark.parametrize(
    ("offsets", "roles"),
    [
        ({"induction": 1}, {"induction"}),
        ({"induction": -1}, {"induction"}),
        ({"echo": 1}, {"echo"}),
        ({"previous": 1}, {"previous_token"}),
    ],
    ids=["induction-far", "induction-near", "echo-far", "previous-two-back"],
)
def test_an_offset_off_by_one_fails(
    offsets: dict[str, int], roles: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task: Any = TASKS["repeat"]
    make = task.prompts

    def shifted(*args: Any, **more: Any) -> list[Prompt]:
        made = []
        for prompt in make(*args, **more):
            now = {"previous": (1,)} | dict(prompt.offsets)
            moved = {k: tuple(d + offsets.get(k, 0) for d in v) for k, v in now.items()}
            made.append(replace(prompt, offsets=moved))
        return made

    monkeypatch.setattr(type(task), "prompts", lambda self, *args, **more: shifted(*args, **more))
    only = EXAM.model_copy(update={"portions": tuple(p for p in EXAM.portions if p.task == "repeat")})
    headmap = scan(plant(ONE), only, haystack=planted_haystack())
    grades = grade(headmap, planted_truth(ONE))
    assert failed([g for g in grades if g.role in ("induction", "echo", "previous_token")]) == roles


def test_a_sink_that_moves_on_with_the_text_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that hardly any row sees look like sinks of a head that follows the last full stop."""
    monkeypatch.setattr(headrows, "_ONE_IN", 50)
    only = EXAM.model_copy(update={"portions": tuple(p for p in EXAM.portions if p.task == "prose")})
    headmap = scan(plant(ONE), only, haystack=planted_haystack())
    (found,) = (g for g in grade(headmap, planted_truth(ONE)) if g.role == "hidden_sink")
    assert "L2H6 last_stop" in found.invented


def test_a_haystack_may_hold_anything() -> None:
    odd = "".join(map(chr, range(32))) + "\x7f\u202e\ufeff\ud800"
    only = EXAM.model_copy(update={"portions": tuple(p for p in EXAM.portions if p.task == "prose")})
    headmap = scan(plant("planted-deep"), only, haystack=planted_haystack().replace(". ", f". {odd} "))
    assert headmap.meta.tasks == {"prose": 2}


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    good = CliRunner().invoke(app, ["exam", "planted-llama", "--json"])
    assert good.exit_code == 0
    assert len(json.loads(good.stdout)["grades"]) == len(ROLES)
    monkeypatch.setattr(retrieval, "copied", Broken.needle_only)
    bad = CliRunner().invoke(app, ["exam", "planted-llama"])
    assert bad.exit_code == 1
    assert "planted-llama, retrieval: invented " in bad.stdout
    assert "Failed." in bad.stdout


def test_errors(seen: tuple[HeadMap, list[Observation]]) -> None:
    with pytest.raises(
        UnknownName, match=r"There is no planted model 'planted-lama'. Did you mean 'planted-llama'"
    ):
        examine(["planted-lama"])
    wrong = planted_truth("planted-deep")
    with pytest.raises(HeadscopeError, match="is not of the heads of 'planted-deep'"):
        grade(seen[0], wrong)
