"""`headscope intervene` and `generate` with pictures: before and after, in JSON and as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headscope.app.cli import app
from headscope.app.evaluated import read
from headscope.heads import knows_words
from headscope.probes import TASKS, load

SHORT = ("--prompts", 2, "--draws", 0, "--max-new-tokens", 12)


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, task = load("shapes"), TASKS["scenes"]
    [prompt] = task.prompts(model.reader(task), lengths=[64], per_length=1, seed=2, haystack=None)
    file = tmp_path_factory.mktemp("pictures") / "scene.png"
    file.write_bytes(prompt.pictures[0].png)
    return file


def test_a_picture_is_described_before_and_after(scene: Path, tmp_path: Path) -> None:
    common = ("intervene", "vhr", "shapes", *SHORT, "--ask", "describe :", "--image", scene)
    result = run_cli(*common, "--strength", 6, "--out", tmp_path / "vhr.json", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    asked = found["asked"]
    assert asked["images"] == [str(scene)] and asked["kl"] > 0
    assert asked["untouched"] != asked["with"]
    assert sum(token["before"] for token in asked["next"]) == pytest.approx(1, abs=0.1)
    said = run_cli(
        "generate", "shapes", "describe :", "--image", scene, "--with", tmp_path / "vhr.json",
        "--max-new-tokens", 12, "--json",
    )  # fmt: skip
    again = json.loads(said.stdout)
    assert [again[name] for name in ("untouched", "with")] == [asked["untouched"], asked["with"]]
    assert found["effect"][0]["loss"] is None, "it has no words for prose"
    (tmp_path / "effect.json").write_text(result.stdout)
    [table] = read(tmp_path / "effect.json")
    assert table.headers == ("", "right", "95%", "log-probability", "change")
    assert {len(row) for row in table.rows} == {5}


def test_the_terminal_says_both_and_no_loss_on_prose(scene: Path) -> None:
    result = run_cli(
        "intervene", "vhr", "shapes", *SHORT, "--strength", 1, "--ask", "describe :", "--image", scene
    )
    assert result.exit_code == 0, result.output
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines() if line.strip()]
    said = {name: text for name, *text in lines if name in ("Asked", "Before", "After")}
    assert said["Asked"] == ["describe :"] and said["Before"] == said["After"]
    assert "prose" not in result.stdout and "KL 0" in result.stdout


def test_which_models_have_words_for_prose() -> None:
    assert not knows_words(load("shapes")) and not knows_words(load("facts"))


@pytest.mark.model
def test_the_default_model_has(smollm2: object) -> None:
    assert knows_words(smollm2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("vhr", "shapes", "--image", "scene.png"), "say which with --ask"),
        (("vhr", "shapes", "--ask", "describe :", "--image", "no.png"), "There is no file 'no.png'."),
        (("zero", "facts", "--head", "L1H1", "--ask", "who", "--image", "SCENE"), "reads text alone"),
    ],
)
def test_mistakes_are_one_sentence(scene: Path, arguments: tuple[str, ...], sentence: str) -> None:
    result = run_cli("intervene", *(str(scene) if a == "SCENE" else a for a in arguments))
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr and len(result.stderr.strip().splitlines()) == 1
