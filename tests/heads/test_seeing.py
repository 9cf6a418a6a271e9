"""Galleries, questions and rates agree with the scenes; arms are compared with the same pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from zoo import tiny

from headscope.app.tables_evaluate import question_cells
from headscope.heads import answered, arms_of, captions, check_knows, galleries_of, searching, under
from headscope.probes import (
    POPE,
    QUESTION_KINDS,
    WORLDS,
    Gallery,
    HeadId,
    Model,
    Prompt,
    Refused,
    UnknownName,
    fit,
    gallery,
    load,
)
from headscope.probes.toys.shapes.blinkers import sighted_heads
from headscope.probes.toys.shapes.scenes import COLOURS, SHAPES


@pytest.fixture(scope="module")
def shapes() -> Model:
    return load("shapes")


def truth(shown: Gallery, i: int) -> list[tuple[str, str]]:
    scenes = shown.scenes
    kinds = [k for k in range(len(SHAPES)) if scenes.present[i, k]]
    return [(SHAPES[k], COLOURS[int(scenes.colour[i, k])]) for k in kinds]


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_questions_have_the_answers_that_the_scenes_give(kind: str) -> None:
    shown = gallery("usual", 40, 3)
    asked = shown.questions(kind)
    assert asked == gallery("usual", 40, 3).questions(kind) and len(asked) > 10
    for q in asked:
        there, words = dict(truth(shown, q.picture)), q.text.split()
        assert words[-1] == "?" and "<" not in q.text
        if kind in POPE:
            assert q.answer == ("yes" if words[3] in there else "no")
        elif kind == "colour":
            assert q.answer == there[words[4]]
    if kind in POPE:
        assert sum(q.answer == "yes" for q in asked) == len(asked) / 2


def test_adversarial_questions_ask_for_what_keeps_company() -> None:
    shown = gallery("breaking", 40, 1)  # triangles without squares
    denied = [q.text.split()[3] for q in shown.questions("adversarial") if q.answer == "no"]
    assert denied.count("square") > 0.9 * len(denied)
    drawn = [q.text.split()[3] for q in shown.questions("random") if q.answer == "no"]
    assert drawn.count("square") < 0.6 * len(drawn)


def test_rates_of_captions_that_are_right_and_of_captions_that_are_not(shapes: Model) -> None:
    shown = gallery("breaking", 6, 2)

    def told(wrong: bool) -> list[str]:
        lists = [truth(shown, i) for i in range(6)]
        said = [" , ".join(f"one {shape} in {colour}" for shape, colour in each) for each in lists]
        return [text + " , one square in red" * wrong + " ." for text in said]

    def saying(texts: Sequence[str]) -> list:  # type: ignore[type-arg]
        return [lambda model, prompts: list(texts)]

    found = captions(shapes, {"right": saying(told(False)), "wrong": saying(told(True))}, [shown])
    right, wrong = found.iloc[0], found.iloc[1]
    kinds = int(shown.scenes.present.sum())
    assert right.hallucination == right.captions == 0 and right.recall == wrong.recall == 1
    assert wrong.hallucination == pytest.approx(6 / (kinds + 6)) and wrong.captions == 1
    assert wrong.absent == wrong.habit == wrong.hallucination and wrong.absent_change == wrong.absent
    assert wrong.words == right.words + 5 and wrong.hallucination_low < wrong.hallucination_high


def test_arms_write_in_batches_what_they_write_alone(shapes: Model) -> None:
    vhr = fit(shapes, "vhr", positions="generated")
    shown = galleries_of("neutral", 5, [7, 8])
    alone: list[str] = []

    def one_by_one(model: Model, prompts: Sequence[Prompt]) -> list[str]:
        said = [under(vhr)(model, [p])[0] for p in prompts]
        alone.extend(said)
        return said

    together: list[str] = []

    def at_once(model: Model, prompts: Sequence[Prompt]) -> list[str]:
        together.extend(under(vhr)(model, prompts))
        return together[-len(prompts) :]

    found = captions(shapes, {"batch": [at_once], "single": [one_by_one]}, shown)
    assert together == alone and len(found.iloc[0]["by_seed"]) == 2
    assert found.iloc[1].hallucination_change == 0


def test_arms_hold_controls(shapes: Model) -> None:
    vhr, scale = fit(shapes, "vhr"), fit(shapes, "scale", heads=["L2H0"])
    arms = arms_of(shapes, [vhr, scale], draws=2, strengths=[0.5])
    assert list(arms) == [
        "untouched", "vhr", "scale", "both",
        "vhr opposite", "vhr random", "vhr at 0.5", "scale opposite", "scale random", "scale at 0.5",
    ]  # fmt: skip
    for (drawn,) in arms["vhr random"]:
        assert drawn.method == "scale" and drawn.layers == vhr.layers and len(drawn.heads) == 16
    assert arms["vhr opposite"][0][0].strengths[0] == 0.0


def test_heads_that_see_the_picture_cure_hallucination_and_others_do_not(shapes: Model) -> None:
    """A small repetition of docs/vision.md: VHR, and as many heads that learned without pictures."""
    vhr = fit(shapes, "vhr", strength=1.25, positions="generated", layers=(2, 3, 4, 5), share=0.25)
    blind = [HeadId(i, h) for i in vhr.layers for h in range(8) if HeadId(i, h) not in sighted_heads()]
    drawn = [blind[i] for i in np.random.default_rng(0).permutation(len(blind))[:8]]
    others = fit(shapes, "scale", heads=drawn, strength=1.25, positions="generated")
    arms = {"untouched": [under()], "VHR": [under(vhr)], "others": [under(others)]}
    found = captions(shapes, arms, galleries_of("breaking", 48, [9004])).set_index("arm")
    assert found.hallucination["untouched"] > 0.2 and found.hallucination_change_high["VHR"] < -0.2
    assert abs(found.recall_change["VHR"]) < 0.02 and abs(found.words_change["VHR"]) < 0.1
    assert abs(found.hallucination_change["others"]) < 0.15


def test_questions_are_answered_and_graded(shapes: Model) -> None:
    arms = {"untouched": [()], "vhr": [(fit(shapes, "vhr", positions="generated"),)], "draws": [(), ()]}
    found = answered(shapes, arms, galleries_of("neutral", 12, [5]), ("random", "count"))
    row, twice = found.iloc[0], found[found.arm == "draws"].iloc[0]
    assert twice.accuracy == row.accuracy and twice.questions == 2 * row.questions
    assert np.isnan([twice.accuracy_low, twice.accuracy_high]).all()  # asked twice, they know no more
    assert question_cells(twice.to_dict())[3] == "" != question_cells(row.to_dict())[3]
    assert row.accuracy > 0.8 and row.accuracy_low < row.accuracy <= row.accuracy_high
    assert row.f1 == pytest.approx(2 * row.precision * row.recall / (row.precision + row.recall))
    assert found.iloc[1].kind == "count" and found.iloc[1].f1 != found.iloc[1].f1


def test_beam_search_describes_too(shapes: Model) -> None:
    found = captions(
        shapes, {"beams": [searching()], "OPERA": [searching(1.0)]}, galleries_of("usual", 2, [1])
    )
    assert (found.recall > 0.5).all()


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(Refused, match="reads text alone"):
        check_knows(load(tiny("llama")))
    with pytest.raises(UnknownName, match="braking"):
        gallery("braking", 2, 0)
    with pytest.raises(UnknownName, match="neutral"):
        gallery(WORLDS[0], 2, 0).questions("neutral")
