"""The intervention page: the form and its command line, pictures, evaluations that a run holds."""

from __future__ import annotations

import io
import json
import shlex
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import text
from PIL import Image
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from headscope.app import evaluated
from headscope.app.beforeafter import before_after
from headscope.app.cli import app
from headscope.app.dashboard import held, jobs, pictured, trying
from headscope.app.fitcost import cost_of
from headscope.app.methodoptions import checked, chooses_heads, options_of
from headscope.app.wanted import Learning, Wanted
from headscope.heads import HeadMap, Manifest
from headscope.heads.run import Plan
from headscope.heads.storage import write_json
from headscope.probes import (
    INTERVENTIONS,
    BadFile,
    HeadId,
    HeadscopeError,
    Picture,
    Recipe,
    Spec,
    fit,
    load,
)

Open = Callable[..., AppTest]


@pytest.mark.parametrize("method", INTERVENTIONS.names())
def test_the_form_has_every_setting_with_its_default_and_a_line_of_help(page: Open, method: str) -> None:
    options = options_of(INTERVENTIONS[method])
    assert {o.name: o.default for o in options} == INTERVENTIONS[method].settings().asked()
    at = page("interventions", run="tiny", method=method)
    shown = text(at)
    for option in options:
        assert option.about and f"address-set.{option.name}" in shown, option.name
    assert f"headscope intervene {method}" in shown and 'class="hs-error"' not in shown
    ways = at.get("button_group")[0].proto.options
    assert ("method's choice" in [way.content for way in ways]) == chooses_heads(INTERVENTIONS[method])


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"method": "act", "set.alpha": "-1"}, "alpha of 'act' is -1.0; valid: above 0."),
        ({"method": "var", "set.take_fraction": "2"}, "take_fraction of 'var' is 2.0; valid: 0 ... 1."),
        ({"method": "vhr", "set.layers": "1 x"}, "layers of 'vhr' is (1, 'x'); valid: at least 0."),
        ({"method": "ph3", "set.favour": "memry"}, "Did you mean 'memory'"),
        ({"method": "ph3", "learn": "1"}, "prompts to learn from is 1; it has to be at least 2."),
        ({"method": "act", "task": "needel"}, "Did you mean 'needle'"),
        ({"method": "zero", "heads": "L2H9"}, "heads has L2H9, but the model has 6 layers of 4 heads."),
        ({"method": "zero", "heads": "L2H1 L2H1"}, "heads names L2H1 twice"),
        ({"method": "zero", "heads": "second"}, "'second'"),
        ({"method": "zero", "heads": ","}, "'zero' has no heads to act on"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(page: Open, query: dict[str, str], sentence: str) -> None:
    at = page("interventions", run="tiny", **query)
    errors = [m.proto.body for m in at.get("html") if 'class="hs-error"' in m.proto.body]
    assert len(errors) == 1 and sentence.replace("'", "&#39;") in errors[0]


def test_settings_are_read_and_refused_by_name() -> None:
    vhr = INTERVENTIONS["vhr"]
    assert checked(vhr, {"layers": ["1", "2"], "share": "0.3"}).model_dump()["layers"] == (1, 2)
    with pytest.raises(HeadscopeError, match="The settings of 'vhr' are wrong: bogus"):
        checked(vhr, {"bogus": 1})


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted("zero", (HeadId(2, 1),), 0.0), "headscope intervene zero m --head L2H1 --out zero.json"),
        (
            Wanted("act", None, 0.4, "prompt", (("alpha", 7.0), ("freeze", False)), Learning(count=20)),
            "headscope intervene act m --positions prompt --set alpha=7.0 --set freeze=false --learn 20 "
            "--out act.json",
        ),
        (
            Wanted("vhr", None, 3.0, "all", (("layers", (1, 2)), ("stand", "mean")), Learning("scenes")),
            "headscope intervene vhr m --strength 3 --set layers=[1,2] --set stand=mean --task scenes "
            "--out vhr.json",
        ),
        (
            Wanted("mean", (HeadId(2, 1),), run="runs/a b", role="retrieval", top=1),
            "headscope intervene mean m --run 'runs/a b' --role retrieval --top 1 --out mean.json",
        ),
    ],
)  # fmt: skip
def test_the_command_line_says_what_is_not_usual(wanted: Wanted, words: str) -> None:
    assert shlex.split(wanted.command("m")) == shlex.split(words)
    assert str(cost_of(wanted)).startswith("Fitting takes ")


def _fitted_by_command(wanted: Wanted, model: str, folder: Path) -> Spec:
    words = shlex.split(wanted.command(model))[1:-1]
    few = ["--prompts", "2", "--draws", "0", *(["--length", "48"] if "--length" not in words else [])]
    done = CliRunner().invoke(app, [*words, str(folder / "spec.json"), *few])
    assert done.exit_code == 0, done.output
    return Spec.open(folder / "spec.json")


def test_the_form_fits_what_its_command_line_fits(tmp_path: Path, runs: Path) -> None:
    shapes = load("shapes")
    for wanted in (
        Wanted("vhr", None, 3.0, "generated", (("share", 0.25),), Learning("scenes")),
        Wanted("var", None, 0.0, "all", (("take_fraction", 0.5),), Learning("scenes", 48, 4)),
        Wanted(
            "zero",
            (HeadId(2, 1),),
            learning=Learning("scenes"),
            run=str(runs / "tiny"),
            role="retrieval",
            top=1,
        ),
    ):
        wanted.check(shapes.geometry)
        assert wanted.fit(shapes) == _fitted_by_command(wanted, "shapes", tmp_path)


# Fitting, in a process of its own


@pytest.fixture
def known(runs: Path) -> Path:
    """The run folder with a manifest, so that it is known which model to load."""
    plan = Plan(
        model="--help", fingerprint="1234", geometry=HeadMap.open(runs / "tiny").meta.geometry,
        dtype="float32", preset="quick", context=256, seed=0, recipe=Recipe(), haystack="", parts=(),
    )  # fmt: skip
    write_json(runs / "tiny" / "manifest.json", Manifest(plan=plan, status="done", started="2026"))
    return runs / "tiny"


ACT = Wanted("act", None, 0.4, "all", (), Learning("choice"))


def _stub(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    command = [sys.executable, "-c", f"import sys, time\n{code}"]
    monkeypatch.setattr(jobs.Fit, "command", lambda self, folder: [*command, str(folder / self.spec)])


def _over(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while jobs.alive(folder, jobs.Fit) and time.monotonic() < deadline:
        time.sleep(0.05)


def _words(folder: Path, words: str) -> None:
    deadline = time.monotonic() + 60
    while jobs.last_words(folder, jobs.Fit) != words and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_fit_runs_by_itself_is_watched_and_its_spec_appears(
    page: Open, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = fit(load("shapes"), "vhr").model_copy(update={"method": "act", "fingerprint": "1234"})
    (known.parent / "spec").write_text(spec.model_dump_json())
    _stub(monkeypatch, "print('7 of 20 passes at most.', flush=True); time.sleep(90)")
    at = page("interventions", run="tiny", method="act", task="choice", kept="0.4")
    assert "Fit it first" in text(at) and "Fitting act" not in text(at)
    at.button(key="fit").click().run()
    _words(known, "7 of 20 passes at most.")
    for address in ({"method": "act"}, {"method": "zero"}):  # another page, and another form
        other = page("interventions", run="tiny", **address)
        assert "Fitting act · 7 of at most 20 passes" in text(other) and "Fit it to" not in text(other)
    assert "Fitting act" in text(page("runs"))
    with pytest.raises(HeadscopeError, match="The fit of 'tiny' is running already"):
        jobs.start(known, jobs.read(known, jobs.Fit))
    other.button(key="stop-fit").click().run()
    _over(known)
    at.run()
    assert not (known / "fit.json").exists() and 'class="hs-error"' not in text(at)

    _stub(monkeypatch, "import shutil, pathlib; pathlib.Path(sys.argv[1]).parent.mkdir(exist_ok=True)\n"
          f"shutil.copy({str(known.parent / 'spec')!r}, sys.argv[1])")  # fmt: skip
    at.button(key="fit").click().run()
    _over(known)
    shown = text(page("interventions", run="tiny", method="act", task="choice", kept="0.4"))
    name = held.place(ACT, "1234")
    assert "act on L" in shown and f"Kept in the run as {name}" in shown and "Fit it to" not in shown
    assert "Fit it first" not in shown and "made here" in shown
    assert "act on L" in text(page("interventions", run="tiny", spec=name))
    assert "Fit it to" in text(page("interventions", run="tiny", method="act", task="choice", kept="0.5"))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("print('7 of 20 passes at most.'); exit('There is no model.')", "There is no model."),
        ("print('7 of 20 passes at most.'); exit(1)", "Fitting act was ended before it was done."),
        ("exit(1)", "Fitting act was ended before it was done."),
    ],
    ids=["error", "killed", "silent"],
)
def test_a_fit_that_fails_is_one_sentence_and_can_be_tried_again(
    page: Open, known: Path, monkeypatch: pytest.MonkeyPatch, code: str, sentence: str
) -> None:
    _stub(monkeypatch, code)
    address = {"run": "tiny", "method": "act", "task": "choice", "kept": "0.4"}
    page("interventions", **address).button(key="fit").click().run()
    _over(known)
    at = page("interventions", **address)
    errors = [m.proto.body for m in at.get("html") if 'class="hs-error"' in m.proto.body]
    assert len(errors) == 1 and sentence in errors[0] and at.button(key="fit").label
    assert 'class="hs-error"' not in text(page("interventions", **address | {"kept": "0.5"}))


def test_a_fit_in_a_folder_that_cannot_be_written_is_one_sentence(
    page: Open, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (known / "fit.log").mkdir()
    at = page("interventions", run="tiny", method="zero").button(key="fit").click().run()
    assert "cannot be written: Is a directory." in text(at) and not at.exception


def test_a_fit_is_what_the_form_says_and_its_model_no_option(tmp_path: Path) -> None:
    job = jobs.Fit(model="--help", method="act", options=tuple(ACT.options()), spec="a.json")
    words = job.command(tmp_path)
    assert words[:4] == [sys.executable, "-m", "headscope.app", "intervene"]
    assert words[-3:] == ["--", "act", "--help"]
    wanted = Wanted("vhr", None, 3.0, "generated", (("share", 0.25),), Learning("scenes"))
    job = jobs.Fit(model="shapes", method="vhr", options=tuple(wanted.options()), spec="in/vhr.json")
    done = CliRunner().invoke(app, job.command(tmp_path)[3:])
    assert done.exit_code == 0, done.output
    assert Spec.open(tmp_path / "in" / "vhr.json") == wanted.fit(load("shapes"))


def test_passes_are_counted_up_to_their_bound() -> None:
    words = shlex.split("intervene var shapes --task scenes --length 48 --learn 4 --prompts 0")
    done = CliRunner().invoke(app, words)
    cost = cost_of(Wanted("var", None, learning=Learning("scenes", 48, 4)))
    assert done.exit_code == 0 and f" of {cost.passes} passes at most." in done.stderr
    refused = CliRunner().invoke(app, [*words[:-1], "1"])
    assert refused.exit_code == 2 and "--prompts is 1; it has to be at least 2" in refused.stderr


# Pictures


def _png(side: int) -> bytes:
    """The beginning of a file that says it has so many rows and columns."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    begun = struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 99) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + begun


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "'../x.png' is no picture"),
        (b"<svg onload='alert(1)'/>", "'../x.png' is no picture"),
        (_png(8), "'../x.png' is damaged or cut short"),
        (_png(100_000), "'../x.png' has"),
    ],
    ids=["empty", "markup", "cut", "bomb"],
)
def test_a_hostile_picture_is_refused_and_nothing_written(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    with pytest.raises(HeadscopeError, match=sentence.replace(".", r"\.")):
        pictured.take_in(tmp_path, "../x.png", content)
    assert not list(tmp_path.iterdir())


def test_a_picture_is_kept_by_its_pixels(tmp_path: Path) -> None:
    store = io.BytesIO()
    Image.new("RGB", (5, 3), "red").save(store, "JPEG", comment=b"private")
    name = pictured.take_in(tmp_path, "../../../etc/x.jpg", store.getvalue())
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png")] == [f"pictures/{name}.png"]
    kept = tmp_path / "pictures" / f"{name}.png"
    assert Picture.open(kept).digest == name and b"private" not in kept.read_bytes()


def test_a_question_about_a_picture_has_two_answers() -> None:
    shapes = load("shapes")
    picture = Picture.open(Image.new("RGB", (64, 64), "red"))
    same = before_after(shapes, fit(shapes, "vhr", strength=1.0), "describe :", pictures=[picture], length=6)
    assert same.before == same.after and same.kl == pytest.approx(0, abs=1e-5)
    spec = fit(shapes, "vhr", strength=4.0, positions="generated")
    changed = before_after(shapes, spec, "describe :", pictures=[picture], length=6)
    assert changed.before == same.before and changed.kl > 1e-4


# Evaluations


def _effect(spec: Spec) -> dict[str, Any]:
    numbers = dict.fromkeys(("right", "right_low", "right_high", "logprob", "logprob_se", "change"), 0.5)
    row = numbers | dict.fromkeys(("change_se", "loss", "loss_change", "loss_change_se"), 0.25)
    effect = [{"what": "untouched"} | row, {"what": "random"} | row | {"right_low": None, "right_high": None}]
    return {"spec": spec.model_dump(mode="json"), "effect": effect}


def _scenes() -> dict[str, Any]:
    both = [f"{n}{e}" for n in ("hallucination", "hallucination_change") for e in ("", "_low", "_high")]
    row = dict.fromkeys([*both, "captions", "recall", "words"], 0.125)
    asked = dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high", "precision", "recall"), 0.75)
    questions = [{"arm": "untouched", "kind": "count", "f1": None, "yes_rate": None} | asked]
    captions = [{"arm": "untouched"} | row, {"arm": "<i>vhr</i>"} | row]
    return {
        "model": "shapes", "fingerprint": "0", "scenes": 4, "seeds": 2, "seed": 0, "specs": ["a.json"],
        "breaking": {"captions": captions, "questions": questions},
    }  # fmt: skip


def test_evaluations_of_the_run_are_shown_with_their_controls(page: Open, runs: Path) -> None:
    shapes = load("shapes")
    assert "No evaluation here yet" in text(page("interventions", run="tiny"))
    (runs / "tiny" / "effect.json").write_text(json.dumps(_effect(fit(shapes, "vhr"))))
    (runs / "tiny" / "scenes.json").write_text(json.dumps(_scenes()))
    broken = _scenes() | {"breaking": {"captions": [{"arm": "x"}]}}
    (runs / "tiny" / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(BadFile, match="no evaluation's"):
        evaluated.read(runs / "tiny" / "broken.json")
    shown = text(page("interventions", run="tiny"))
    assert "random heads" in shown and "50% … 50%" in shown and "0.500 ± 0.250" in shown
    assert "Captions of breaking scenes" in shown and "&lt;i&gt;vhr" in shown and "12 … 12%" in shown
    assert "other weights than this run" in shown and "broken.json" not in shown


def test_a_held_spec_acts_at_the_strength_of_the_slider(
    page: Open, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = fit(load("shapes"), "vhr", positions="generated")
    spec.save(runs / "tiny" / "vhr.json")
    seen: list[Spec | None] = []
    monkeypatch.setattr(trying, "show", lambda run, manifest, spec, *rest, **more: seen.append(spec))
    page("interventions", run="tiny", spec="vhr.json")
    page("interventions", run="tiny", spec="vhr.json", kept="0.5")
    assert seen == [spec, spec.with_strength(0.5)]
