"""Scenes, their pictures and what is said of them agree; a model trains, is written and loads."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from headscope.probes import HeadId, Picture, generate, load
from headscope.probes.toys import train_shapes
from headscope.probes.toys.shapes import language, raster, scenes
from headscope.probes.toys.shapes.blinkers import Blinkers, drawn, sighted_heads
from headscope.probes.toys.shapes.captions import judge, mentions
from headscope.probes.toys.shapes.model import read, seen, untrained
from headscope.probes.toys.shapes.scenes import COLOURS, GRID, SHAPES, Habit, Light, Scenes

MANY = 4000


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def column(name: str) -> int:
    return SHAPES.index(name)


@pytest.mark.parametrize("world", ["neutral", "usual", "breaking"])
def test_every_copy_has_a_cell_of_its_own(world: str) -> None:
    made = {
        "neutral": lambda: scenes.draw(MANY, dice()),
        "usual": lambda: scenes.draw(MANY, dice(), Habit()),
        "breaking": lambda: scenes.breaking(MANY, dice()),
    }[world]()
    in_cells = raster.kinds_in_cells(made)
    for kind in range(len(SHAPES)):
        copies = made.count[:, kind] * made.present[:, kind]
        assert torch.equal((in_cells == kind).sum(1), copies)
    assert made.present.sum(1).min() >= 1 and made.present.sum(1).max() <= scenes.MOST


def test_habits_hold_as_often_as_stated_and_never_in_breaking_scenes() -> None:
    habit = Habit(colour=0.8, company=0.7)
    usual, against = scenes.draw(MANY, dice(), habit), scenes.breaking(MANY, dice())
    for shape, colour in scenes.USUAL_COLOUR.items():
        i, c = column(shape), COLOURS.index(colour)
        assert (usual.colour[:, i] == c).float().mean() == pytest.approx(0.8, abs=0.03)
        assert not (against.colour[:, i] == c).any() and against.present[:, i].all()
    first, second = map(column, scenes.COMPANY)
    together = usual.present[usual.present[:, first], second].float().mean()
    assert together == pytest.approx(0.7, abs=0.04)
    assert against.present[:, first].all() and not against.present[:, second].any()
    neutral = scenes.draw(MANY, dice())
    assert torch.bincount(neutral.colour[:, 0]).float().div(MANY).sub(1 / 6).abs().max() < 0.03


def test_hearsay_changes_the_account_only_as_often_as_stated() -> None:
    seen_scenes = scenes.breaking(MANY, dice())
    told = scenes.usual(seen_scenes, dice(1), Habit(colour=1.0, company=1.0), share=0.3)
    circle, square = column("circle"), column("square")
    assert (told.colour[:, circle] == 0).float().mean() == pytest.approx(0.3, abs=0.03)
    assert told.present[:, square].float().mean() == pytest.approx(0.3, abs=0.03)
    assert not seen_scenes.present[:, square].any()


def _true(words: list[str], scene: Scenes, i: int) -> str:
    """The answer to a question, worked out from its words alone."""
    there, colour = scene.present[i], [COLOURS[c] for c in scene.colour[i]]
    if words[:2] == ["is", "there"]:
        return "yes" if there[column(words[3])] else "no"
    if words[0] == "what":
        return colour[column(words[4])]
    if words[0] == "how":
        return language.NUMBERS[int(scene.count[i, language.PLURALS.index(words[2])]) - 1]
    if words[3] in COLOURS:
        return "yes" if colour[column(words[2])] == words[3] else "no"
    one, two = (int(scene.cells[i, column(w), 0]) for w in (words[2], words[-2]))
    holds = {
        "left": one % GRID < two % GRID, "right": one % GRID > two % GRID,
        "above": one // GRID < two // GRID, "below": one // GRID > two // GRID,
    }  # fmt: skip
    return "yes" if holds[words[3]] else "no"


def test_answers_and_captions_are_true_of_their_scene() -> None:
    made = scenes.draw(400, dice(), Habit())
    said = language.talk(made, dice(2))
    counted: dict[str, int] = {}
    for i in range(len(made)):
        words = [language.WORDS[j] for j in said.ids[i]]
        roles = [language.ROLES[r] if r >= 0 else "" for r in said.roles[i].tolist()]
        if words[0] == "describe":
            caption = " ".join(words[2 : words.index("</s>")])
            verdict = judge(caption, made, i)
            assert verdict.found == verdict.kinds == verdict.mentions and not verdict.miscoloured
            assert caption.endswith(".") and roles[words.index("</s>")] == "end"
            continue
        for turn in " ".join(words).split(" </s>")[:-1]:
            *question, answer = turn.split()
            assert answer == _true(question, made, i), turn
            counted[answer] = counted.get(answer, 0) + 1
    assert 0.4 < counted["yes"] / (counted["yes"] + counted["no"]) < 0.6


def test_a_caption_is_judged_by_what_is_absent_and_what_has_another_colour() -> None:
    made = scenes.breaking(1, dice(5))
    circle = COLOURS[made.colour[0, column("circle")]]
    verdict = judge(
        f"one circle in {circle} , two stars in yellow , one triangle , a square in red .", made, 0
    )
    assert (verdict.mentions, verdict.absent, verdict.miscoloured, verdict.habit) == (4, 1, 1, 2)
    assert (verdict.found, verdict.words) == (3, 18)
    twice = mentions(["one", "circle", "in", "red", ",", "one", "circle", "in", "blue", "."])
    assert [(m.shape, m.colour) for m in twice] == [(0, 0)]


def test_pictures_are_what_the_processor_makes_of_them_and_colours_are_as_drawn(tmp_path: Path) -> None:
    train_shapes.save(untrained("tiny", 0), tmp_path)
    processor: Any = AutoProcessor.from_pretrained(tmp_path)
    made = scenes.draw(4, dice())
    pictures = raster.render(made, dice())
    for i, image in enumerate(raster.images(pictures)):
        found = processor(images=image, text="<image> describe :", return_tensors="pt")
        assert torch.equal(found["pixel_values"], raster.pixels(pictures[i : i + 1]))
        assert found["input_ids"][0].tolist() == [1, *[3] * 64, language.ID["describe"], language.ID[":"]]
    clear = Scenes(
        torch.eye(8, dtype=torch.bool), torch.zeros(8, 8).long(), torch.ones(8, 8).long(),
        torch.ones(8, 8), torch.ones(8, 8), torch.full((8, 8, 3), 5).tril(),
    )  # fmt: skip
    red, green, blue = raster.render(clear, dice(), noise=0.0)[:, :, 16:32, 16:32].float().amax((2, 3)).T
    assert (red > 1.9 * green).all() and torch.equal(green, blue)


def test_under_blinkers_pictures_come_in_through_the_sighted_heads_alone() -> None:
    model = untrained("tiny", 0).eval()
    made = scenes.draw(8, dice())
    ids = language.talk(made, dice()).ids
    with torch.no_grad():
        features = seen(model, raster.pixels(raster.render(made, dice())))

        def said(*sighted: HeadId) -> torch.Tensor:
            with Blinkers(sighted, 8).worn(model):
                logits = [read(model, shown, ids)[:, 1:] for shown in (features, features.flip(0))]
            return logits[0] - logits[1]  # of words that rows of text predict

        assert not said().any() and said(HeadId(1, 2)).any()
        assert not read(model, None, ids).isnan().any()
        del model.model.language_model.layers[1]  # what the second layer is given depends on the first
        blinkers = Blinkers([HeadId(0, 3)], 8)
        with blinkers.worn(model):
            read(model, features, ids)
        model.set_attn_implementation("eager")
        embed = model.get_input_embeddings()
        parts = [embed(torch.full_like(ids[:, :1], 1)), features, embed(ids[:, :-1])]
        out = model.model.language_model(inputs_embeds=torch.cat(parts, 1), output_attentions=True)
    mass = out.attentions[0][::4, [0, 1, 2, 4, 5, 6, 7], 65:, 1:65].sum(-1)
    torch.testing.assert_close(blinkers.paid(), -torch.log1p(-mass).mean())


def test_sighted_heads_are_drawn_within_their_layers() -> None:
    assert drawn([2, 4], 3, 8, 0) == drawn([2, 4], 3, 8, 0) != drawn([2, 4], 3, 8, 1)
    assert [h.layer for h in drawn([2, 4], 3, 8, 0)] == [2, 2, 2, 4, 4, 4]
    assert len(set(drawn([2, 4], 3, 8, 0))) == 6


def test_the_documented_commands_train_as_the_shipped_model_was_trained() -> None:
    training = json.loads((Path(train_shapes.__file__).parent / "weights/shapes/training.json").read_text())
    for stage in (training, training["start"]):
        for name, value in asdict(Light()).items():
            assert stage[name] == value
        assert (stage["sighted"], stage["layers"], stage["mix"]) == (2, [2, 3, 4, 5], [1, 1, 3, 1, 3])
    assert {name: training[name] for name in asdict(Habit())} == asdict(Habit())
    assert sighted_heads() == tuple(drawn([2, 3, 4, 5], 2, 8, training["seed"]))


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--size", "tiny"], "the layers 0 to 1"), (["--sighted", "8"], "must not see")],
)
def test_heads_that_there_are_not_cannot_be_sighted(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train_shapes", "--out", "nowhere", *given])
    with pytest.raises(SystemExit):
        train_shapes.main()
    assert said in capsys.readouterr().err


def test_in_better_light_shapes_are_less_faint_and_less_pale() -> None:
    dim = scenes.draw(MANY, dice())
    bright = scenes.draw(MANY, dice(), light=Light(faint=0.0, saturation=0.5))
    assert (dim.opacity < 0.5).float().mean() == pytest.approx(Light().faint, abs=0.02)
    assert bright.opacity.min() >= 0.5 and bright.saturation.min() >= 0.5 > dim.saturation.min()
    assert torch.equal(dim.cells, bright.cells)


def test_questions_are_asked_in_proportion_to_the_mix() -> None:
    roles = language.talk(scenes.draw(MANY, dice()), dice(), mix=(1, 0, 3, 0, 0)).roles
    often = torch.bincount(roles[roles >= 0], minlength=5)[:5].float()
    assert often[2] / often[0] == pytest.approx(3, rel=0.1) and not often[[1, 3, 4]].any()


@pytest.mark.parametrize("blinkers", [None, Blinkers([HeadId(1, 5)], 8)], ids=["free", "blinkers"])
def test_training_writes_a_model_that_says_the_same_as_when_it_was_trained(
    tmp_path: Path, blinkers: Blinkers | None
) -> None:
    plans = {
        name: train_shapes.Plan(habit, 6, 1.0, 8, 1e-3, 0.02, 3, held_out=16, blinkers=blinkers)
        for name, habit in (("sight", None), ("habit", Habit(hearsay=0.2)))
    }
    model = untrained("tiny", 0)
    train_shapes.train(model, plans, tmp_path, {"seed": 0})
    log = json.loads((tmp_path / "training.json").read_text())["log"]
    assert [line["stage"] for line in log] == ["sight", "sight", "habit", "habit"]
    assert all(("paid" in line) == (blinkers is not None) for line in log)
    assert log[1]["loss"] < log[0]["loss"] and {"neutral", "usual", "breaking"} <= set(log[-1])
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    picture = raster.pixels(raster.render(scenes.draw(2, dice()), dice()))
    ids = torch.tensor([[1, *[3] * 64, language.ID["describe"]]]).expand(2, -1)
    text = torch.tensor([[language.ID["describe"], 0]]).expand(2, -1)
    with torch.no_grad():
        whole = loaded.eval()(input_ids=ids, pixel_values=picture).logits[:, -1]
        ours = read(loaded, seen(loaded, picture), text)[:, -1]
        before = read(model.eval(), seen(model, picture), text)[:, -1]
    torch.testing.assert_close(ours, whole)
    torch.testing.assert_close(ours, before, atol=1e-2, rtol=0)


def test_the_shipped_model_says_what_it_sees() -> None:
    model = load("shapes")
    assert model.vision is not None and (model.geometry.layers, model.geometry.heads) == (6, 8)
    made = scenes.draw(4, dice(3))
    clear = replace(made, opacity=torch.ones(4, 8), saturation=torch.ones(4, 8))
    found, kinds = 0, 0
    for i, image in enumerate(raster.images(raster.render(clear, dice()))):
        said = generate(model, "describe :", pictures=[Picture.open(image)], max_new_tokens=40)
        verdict = judge(said, clear, i)
        found, kinds = found + verdict.found - verdict.miscoloured, kinds + verdict.kinds
        assert said.endswith(".")
    assert found > 0.8 * kinds
