"""What a scan says about pictures: masses, visual sinks, divergence; nothing for models of text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vlm_zoo import SPECIAL, VOCABULARY, tiny_vlm
from zoo import eager_attentions, tiny

from headscope.heads import DETECTORS, HeadMap, awareness, outliers, scan, t_vhd
from headscope.heads.parts import read_part, write_part
from headscope.probes import (
    TASKS,
    Estimate,
    HeadscopeError,
    Model,
    Observation,
    Picture,
    Prompt,
    Refused,
    UnknownName,
    divergence,
    load,
    observe,
)
from headscope.probes.toys.shapes.blinkers import sighted_heads
from headscope.sinks import looking, visual_sinks


@pytest.fixture(scope="module")
def llava() -> Model:
    hf, tokenizer, eyes = tiny_vlm("llava")
    return load(hf, tokenizer=tokenizer, image_processor=eyes)


def scenes(model: Model, count: int = 2) -> list[Prompt]:
    task = TASKS["scenes"]
    return task.prompts(model.reader(task), lengths=[64], per_length=count, seed=0, haystack=None)


@torch.no_grad()
def test_image_mass_and_looks_are_the_models_own(llava: Model) -> None:
    (prompt, *_) = scenes(llava)
    seen = observe(llava, prompt)
    own = torch.stack([w[0] for w in eager_attentions(llava.hf, **llava.inputs([prompt]))])
    start, stop = prompt.spans["image"]
    rows = list(prompt.answer_rows)
    np.testing.assert_allclose(seen.head["look"], own[:, :, rows, start:stop].mean(2), atol=1e-5)
    found = looking([seen], llava.geometry.hidden)
    np.testing.assert_allclose(found.image.value, own[:, :, rows, start:stop].sum(-1).mean(-1), atol=1e-5)


def test_the_nonsink_ratio_leaves_out_what_lies_on_sinks(llava: Model) -> None:
    """With one dimension made huge in the first token and in three image tokens."""
    seen = observe(llava, scenes(llava)[0])
    start, _ = seen.prompt.spans["image"]
    layer = dict(seen.layer)
    size = np.full_like(layer["massive_size"], 0.5)
    size[:, 0, [0, start, start + 3, start + 5]] = 6.5
    layer["massive_size"], layer["massive_dim"] = size, np.zeros_like(layer["massive_dim"]) + np.arange(8)
    planted = replace(seen, layer=layer)
    found = looking([planted], llava.geometry.hidden)
    assert found.dims == (0,)
    sinks = visual_sinks(planted, found.dims, found.tau)
    assert sinks[2].nonzero()[0].tolist() == [0, 3, 5] and not sinks[:2].any()
    look = seen.head["look"][2]
    np.testing.assert_allclose(found.sink.value[2], look[:, [0, 3, 5]].sum(-1), rtol=1e-5)
    enough = look.sum(-1) >= 0.2
    expected = 1 - look[:, [0, 3, 5]].sum(-1) / look.sum(-1)
    np.testing.assert_allclose(found.nonsink.value[2][enough], expected[enough], rtol=1e-5)
    assert np.isnan(found.nonsink.value[2][~enough]).all()


def heads_of(model: Model, ids: torch.Tensor, pixels: dict[str, torch.Tensor], row: int) -> torch.Tensor:
    """Every head's output in a row, by hooks of its own. [L, H, D]"""
    found = []
    hooks = [
        model.output_projection(i).register_forward_pre_hook(lambda _, args: found.append(args[0][0, row]))
        for i in range(model.geometry.layers)
    ]
    with torch.no_grad():
        model.hf(input_ids=ids, **pixels)
    for hook in hooks:
        hook.remove()
    return torch.stack(found).unflatten(-1, (model.geometry.heads, -1))


def test_divergence_by_each_stand_in(llava: Model) -> None:
    prompt = scenes(llava)[0]
    row, inputs = prompt.answer_rows[0], llava.inputs([prompt])
    ids, pixels = inputs.pop("input_ids"), inputs
    start, stop = prompt.spans["image"]
    seen = heads_of(llava, ids, pixels, row)
    cut = torch.cat([ids[:, :start], ids[:, stop:]], 1)
    removed = heads_of(llava, cut, {}, row - (stop - start))
    found = divergence(llava, prompt, [row])
    torch.testing.assert_close(found.vhd[..., 0], (seen - removed).norm(dim=-1))
    torch.testing.assert_close(found.text[..., 0], removed.norm(dim=-1))
    grey = Picture.open(Image.new("RGB", (prompt.pictures[0].width,) * 2, (128, 128, 128)))
    blank = heads_of(llava, ids, llava.vision.inputs(ids, [grey]) if llava.vision else {}, row)
    torch.testing.assert_close(
        divergence(llava, prompt, [row], "blank").vhd[..., 0], (seen - blank).norm(dim=-1)
    )
    even = divergence(llava, prompt, [row], "mean").vhd
    assert (even > 0).any() and not torch.allclose(even, found.vhd)
    all_grey = replace(prompt, pictures=(grey,))
    assert float(divergence(llava, all_grey, [row], "blank").vhd.max()) == 0
    with pytest.raises(UnknownName, match="stand-in"):
        divergence(llava, prompt, [row], "gone")  # type: ignore[arg-type]
    with pytest.raises(HeadscopeError, match="not all text after its picture"):
        divergence(llava, prompt, [start])


def test_outliers_need_both_divergence_and_size() -> None:
    vhd, text = np.ones((1, 8)), np.ones((1, 8))
    vhd[0, [1, 2]] = 9
    text[0, [2, 3]] = 9
    assert outliers(vhd, text).nonzero()[1].tolist() == [2]
    np.testing.assert_allclose(awareness(vhd, text)[0] * 15 / 8, [1, 9, 0, 1, 1, 1, 1, 1])


def test_rounding_moves_no_head() -> None:
    """A layer that the picture has not reached: what is left of it is rounding, and nobody's share."""
    text = np.array([[3.0, 2.0, 3.0], [3.0, 2.0, 3.0]])
    vhd = text * [[5e-6, 1e-7, 0.0], [5e-6, 0.01, 0.1]]
    found = awareness(vhd, text)
    assert not found[0].any() and found[1, 0] == 0
    np.testing.assert_allclose(found[1, 1:], vhd[1, 1:] / vhd[1, 1:].sum() * 3)


def test_t_vhd_puts_tokens_together_to_words(llava: Model) -> None:
    words_of = {i for token, i in llava.tokenizer.get_vocab().items() if token not in SPECIAL}
    llava.hf.generation_config.suppress_tokens = sorted(set(range(VOCABULARY)) - words_of)
    picture = scenes(llava)[0].pictures
    words = t_vhd(llava, "what is in the picture", picture, max_new_tokens=5, top=3)
    llava.hf.generation_config.suppress_tokens = None
    assert [w.tokens for w in words] == [1] * 5 and all(w.tvhd > 0 and w.text for w in words)
    with pytest.raises(Refused, match="reads text alone"):
        t_vhd(load(tiny("llama")), "what", picture)


def test_columns_of_a_scan_and_none_without_pictures(llava: Model, tmp_path: Path) -> None:
    headmap = scan(llava, "quick", tmp_path)
    again = HeadMap.open(tmp_path)
    for name in ("image_mass", "visual_sink", "nonsink_ratio", "vhd", "vision_aware"):
        assert again.meta.columns[name].tasks == ("scenes",) and f"{name}_se" in again.frame
    assert "the picture removed" in headmap.meta.columns["vhd"].about
    assert {"image_centric", "vision_aware"} <= set(headmap.roles)
    reading = DETECTORS["vision_aware"].read([], llava.geometry)
    assert not reading.scores and not reading.about


def test_heads_known_to_look_at_pictures_are_found(tmp_path: Path) -> None:
    """The sighted heads of `shapes`: the label of image-centric heads is exact, and VHD puts them first
    in each of their layers; the published filter of outliers drops some, so that `vision_aware` misses
    them."""
    headmap = scan(load("shapes"), "quick", tmp_path)
    known = set(map(str, sighted_heads()))
    frame = headmap.frame.assign(name=[f"L{r.layer}H{r.head}" for r in headmap.frame.itertuples()])
    assert len(known) == 8 and set(frame.name[frame.is_image_centric]) == known
    found = set(frame.name[frame.is_vision_aware])
    assert found < known and len(found) >= 4
    for layer in (2, 3, 4, 5):
        first = frame[frame.layer == layer].nlargest(2, "vhd")
        assert set(first.name) == {name for name in known if name.startswith(f"L{layer}")}


def test_parts_keep_pictures(llava: Model, tmp_path: Path) -> None:
    seen: Observation = observe(llava, scenes(llava)[0])
    write_part(tmp_path / "part", seen)
    back = read_part(tmp_path / "part")
    assert back.prompt == seen.prompt and back.prompt.key() == seen.prompt.key()
    assert np.array_equal(back.head["look"], seen.head["look"])
    assert isinstance(looking([back], llava.geometry.hidden).image, Estimate)
