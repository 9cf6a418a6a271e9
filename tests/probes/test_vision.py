"""Vision-language models: pictures come in checked, image tokens are found, the seam sees the decoder."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image, ImageDraw
from vlm_zoo import VLMS, tiny_vlm
from zoo import tiny

from headscope.probes import (
    AttentionCall,
    BadFile,
    HeadscopeError,
    Model,
    Picture,
    Prompt,
    Refused,
    attach,
    generate,
    load,
    observe,
)


def picture(width: int = 96, height: int = 64, at: tuple[int, int] = (10, 10)) -> Picture:
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).ellipse((*at, at[0] + 30, at[1] + 30), fill="red")
    return Picture.open(image)


@pytest.fixture(params=sorted(VLMS), scope="module")
def vlm(request: pytest.FixtureRequest) -> Model:
    hf, tokenizer, image_processor = tiny_vlm(request.param)
    return load(hf, tokenizer=tokenizer, image_processor=image_processor)


def asked(model: Model, shown: Picture | None = None) -> Prompt:
    assert model.vision
    return model.vision.prompt(
        "what is in the picture", [shown or picture()], answer="a red circle", spans={"question": "what is"}
    )


class Layers:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def see(self, call: AttentionCall) -> None:
        self.seen.append((call.layer, call.q.shape[2]))


@torch.no_grad()
def test_the_image_span_holds_the_image_tokens_and_the_seam_sees_the_decoder_alone(vlm: Model) -> None:
    prompt = asked(vlm)
    assert vlm.vision
    image = [i for i, token in enumerate(prompt.ids) if token == vlm.vision.image_token]
    assert [p for run in prompt.image_runs for p in range(*run)] == image
    assert vlm.tokenizer.decode(prompt.ids[slice(*prompt.spans["question"])]) == "what is"
    covered = sorted(p for view in prompt.views for p in view.positions)
    assert len(set(covered)) == len(covered) and set(covered) <= set(image)
    inputs = vlm.inputs([prompt])
    plain = vlm.hf(**inputs).logits
    with attach(vlm, layers := Layers()):
        seen = vlm.hf(**inputs).logits
    torch.testing.assert_close(seen, plain, atol=2e-5, rtol=1e-4)
    assert layers.seen == [(layer, len(prompt)) for layer in range(3)]


@torch.no_grad()
def test_a_view_says_where_in_the_picture_a_token_looks(vlm: Model) -> None:
    """Painting one place changes the embedding of the token there most."""

    def embeddings(shown: Picture) -> torch.Tensor:
        found: list[torch.Tensor] = []

        def keep(_: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])

        hook = vlm.layer_modules[0].register_forward_pre_hook(keep, with_kwargs=True)
        vlm.hf(**vlm.inputs([asked(vlm, shown)]))
        hook.remove()
        return found[0][0]

    blank = Picture.open(Image.new("RGB", (64, 64), "white"))
    before, views = embeddings(blank), asked(vlm, blank).views
    for x, y in ((58, 6), (6, 34)):
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).rectangle((x - 3, y - 3, x + 3, y + 3), fill="black")
        change = (embeddings(Picture.open(image)) - before).norm(dim=-1)
        for view in views:
            left, top, right, bottom = view.box
            if not (left < x / 64 < right and top < y / 64 < bottom):
                continue
            row = int((y / 64 - top) / (bottom - top) * view.rows)
            column = int((x / 64 - left) / (right - left) * view.columns)
            there = change[list(view.positions)]
            assert int(there.argmax()) == row * view.columns + column, (view, x, y)


@torch.no_grad()
def test_generate_with_cache_equals_without(vlm: Model) -> None:
    vlm.hf.generation_config.eos_token_id = None
    assert vlm.vision
    inputs = vlm.inputs([vlm.vision.prompt("what is", [picture()])])
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    mask = {"attention_mask": torch.ones_like(inputs["input_ids"])}
    plain = vlm.hf.generate(**inputs, **mask, **options)
    with attach(vlm, layers := Layers()):
        seen = vlm.hf.generate(**inputs, **mask, **options)
    assert seen.tolist() == plain.tolist()
    assert [q for layer, q in layers.seen if layer == 0] == [inputs["input_ids"].shape[1], 1, 1, 1]
    ours = generate(vlm, "what is", pictures=[picture()], max_new_tokens=4)
    written = plain[0, inputs["input_ids"].shape[1] :]
    assert ours == vlm.tokenizer.decode(written, skip_special_tokens=True)


def test_observed_like_any_prompt(vlm: Model) -> None:
    prompt = asked(vlm)
    seen = observe(vlm, prompt)
    spans = [name for name in prompt.spans if name.startswith("image")]
    mass = sum(seen.exact[f"span_{name}"] for name in spans)
    assert np.all(mass > 0) and np.all(mass < 1)
    other = observe(vlm, asked(vlm, picture(at=(50, 30))))
    assert other.prompt.key() != prompt.key()
    assert not np.allclose(other.logprob, seen.logprob)


@torch.no_grad()
def test_a_batch_of_pictures_reads_each_as_alone(vlm: Model) -> None:
    prompts = [asked(vlm), asked(vlm, picture(at=(50, 30))), asked(vlm, picture(64, 96))]
    together = vlm.hf(**vlm.inputs(prompts)).logits
    for row, prompt in enumerate(prompts):
        alone = vlm.hf(**vlm.inputs([prompt])).logits[0]
        torch.testing.assert_close(together[row, : len(prompt)], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["llava", "llava-next", "idefics3", "gemma3"])
def test_the_same_tokens_and_pixels_as_transformers_own_processor(name: str) -> None:
    hf, tokenizer, eyes = tiny_vlm(name)
    model = load(hf, tokenizer=tokenizer, image_processor=eyes)
    assert model.vision
    if name == "gemma3":
        tokenizer.boi_token, tokenizer.image_token, tokenizer.eoi_token = (
            "<start_of_image>", "<image_soft_token>", "<end_of_image>",
        )  # fmt: skip
        tokenizer.boi_token_id, tokenizer.image_token_id = tokenizer.convert_tokens_to_ids(
            ["<start_of_image>", "<image_soft_token>"]
        )
        processor = tf.Gemma3Processor(eyes, tokenizer, image_seq_length=16)
    elif name == "idefics3":
        processor = tf.Idefics3Processor(eyes, tokenizer, image_seq_len=4)
    else:
        kind = tf.LlavaProcessor if name == "llava" else tf.LlavaNextProcessor
        processor = kind(
            eyes, tokenizer, patch_size=8, vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )  # fmt: skip
    for shown in (picture(), picture(64, 64), picture(40, 90)):
        prompt = model.vision.prompt("what is in the picture", [shown], chat=False)
        text = f"{model.vision.placeholder}\nwhat is in the picture"
        theirs = processor(text=[text], images=[[shown.image]], return_tensors="pt")
        ours = model.inputs([prompt])
        assert theirs["input_ids"][0].tolist() == list(prompt.ids)
        for key, value in ours.items():
            assert torch.equal(theirs[key].to(value.dtype), value), key


def test_other_vision_language_models_are_refused() -> None:
    text = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
        "num_key_value_heads": 2, "vocab_size": 64, "cross_attention_layers": [1], "pad_token_id": 0,
    }  # fmt: skip
    eyes = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_global_layers": 1, "attention_heads": 4,
        "image_size": 32, "patch_size": 8, "vision_output_dim": 64, "intermediate_size": 32,
        "intermediate_layers_indices": [0], "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]],
    }  # fmt: skip
    mllama = tf.MllamaForConditionalGeneration(tf.MllamaConfig(vision_config=eyes, text_config=text))
    with pytest.raises(Refused, match=r"mllama.*cross-attention.*known are gemma3"):
        load(mllama)
    small = {"d_model": 32, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 4, "vocab_size": 64}
    with pytest.raises(Refused, match=r"encoder-decoder \(t5\)"):
        load(tf.T5ForConditionalGeneration(tf.T5Config(**small)))


def test_a_folder_brings_everything(tmp_path: Path) -> None:
    hf, tokenizer, eyes = tiny_vlm("llava")
    for part in (hf, tokenizer, eyes):
        part.save_pretrained(tmp_path)
    model, object_ = load(str(tmp_path)), load(hf, tokenizer=tokenizer, image_processor=eyes)
    assert asked(model).key() == asked(object_).key()
    assert model.fingerprint == object_.fingerprint


def test_text_models_and_bare_models_say_so() -> None:
    with pytest.raises(Refused, match="reads text alone"):
        generate(load(tiny("llama")), "what", pictures=[picture()])
    hf, tokenizer, _ = tiny_vlm("llava")
    bare = load(hf, tokenizer=tokenizer)
    with pytest.raises(HeadscopeError, match="without an image processor"):
        asked(bare)


def test_pictures_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    picture().image.save(file)
    assert Picture.open(file).digest == Picture.open(picture().image).digest == picture().digest
    whole = file.read_bytes()
    for name, content, said in (
        ("cut.png", whole[: len(whole) // 2], "damaged or cut short"),
        ("text.png", b"not a picture at all", "is no picture; readable are PNG"),
        ("empty.png", b"", "is no picture"),
        ("drawing.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadFile, match=said):
            Picture.open(tmp_path / name)
    with pytest.raises(BadFile, match="There is no file"):
        Picture.open(tmp_path / "none.png")
    with pytest.raises(BadFile, match="damaged or cut short"):
        Picture.open(tmp_path)
    with pytest.raises(HeadscopeError, match="not a ndarray"):
        Picture.open(np.zeros((4, 4, 3)))  # type: ignore[arg-type]


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    whole = picture().png
    for side in (9_000, 60_000):
        header = b"IHDR" + struct.pack(">II", side, side) + whole[24:29]
        file = tmp_path / f"{side}.png"
        file.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
        with pytest.raises(HeadscopeError, match="67,108,864"):
            Picture.open(file)


def test_transparency_and_orientation() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert Picture.open(clear).image.getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new("RGB", (8, 4), "red")
    turned.getexif()[0x0112] = 6
    assert (Picture.open(turned).width, Picture.open(turned).height) == (4, 8)
