"""Tiny randomly initialised vision-language models, tokenizers and image processors, made in code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = (
    "<pad>", "<s>", "</s>", "<unk>", "<image>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>",
    "<|video_pad|>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<start_of_image>",
    "<end_of_image>", "<image_soft_token>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>",
    *(f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)),
)  # fmt: skip
WORDS = """
    USER: ASSISTANT: what is in the picture a an red blue green circle square triangle left right of
    above below two three yes no there and how many does it show colour ? yellow cyan purple star
    diamond cross ring bar
"""
VOCABULARY = 96
_IDS = {token: i for i, token in enumerate((*SPECIAL, *WORDS.split()))}

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_EYES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


def tokenizer(mark: str = "<image>") -> PreTrainedTokenizerFast:
    """Words and special tokens; the chat template puts `mark` where a picture stands."""
    core = Tokenizer(WordLevel(_IDS, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[4:]),
    )  # fmt: skip
    made.chat_template = (
        "{{ bos_token }}USER: {% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}"
        "{% else %}{% for part in m['content'] %}{% if part['type'] == 'image' %}" + mark + " "
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    return made


def _clip(**changes: Any) -> tf.CLIPVisionConfig:
    return tf.CLIPVisionConfig(**(_EYES | {"image_size": 32, "patch_size": 8} | changes))


def _llava() -> PreTrainedModel:
    return tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(
            vision_config=_clip(), text_config=tf.LlamaConfig(**_TEXT), image_token_index=_IDS["<image>"]
        )
    )


def _llava_siglip() -> PreTrainedModel:
    eyes = tf.SiglipVisionConfig(**_EYES, image_size=32, patch_size=8)
    return tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(
            vision_config=eyes, text_config=tf.Qwen2Config(**_TEXT), image_token_index=_IDS["<image>"],
            vision_feature_select_strategy="full", vision_feature_layer=-1,
        )
    )  # fmt: skip


def _llava_next() -> PreTrainedModel:
    return tf.LlavaNextForConditionalGeneration(
        tf.LlavaNextConfig(
            vision_config=_clip(), text_config=tf.LlamaConfig(**_TEXT), image_token_index=_IDS["<image>"],
            image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
        )
    )  # fmt: skip


_QWEN_IDS = {
    "image_token_id": _IDS["<|image_pad|>"], "video_token_id": _IDS["<|video_pad|>"],
    "vision_start_token_id": _IDS["<|vision_start|>"], "vision_end_token_id": _IDS["<|vision_end|>"],
}  # fmt: skip
_MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}}


def _qwen2_vl() -> PreTrainedModel:
    eyes = {"depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 48, "mlp_ratio": 2, "patch_size": 8}
    return tf.Qwen2VLForConditionalGeneration(
        tf.Qwen2VLConfig(vision_config=eyes, text_config=_TEXT | _MROPE, **_QWEN_IDS)
    )


def _qwen2_5_vl() -> PreTrainedModel:
    eyes = {
        "depth": 2, "hidden_size": 32, "num_heads": 4, "out_hidden_size": 48, "intermediate_size": 48,
        "patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1],
    }  # fmt: skip
    return tf.Qwen2_5_VLForConditionalGeneration(
        tf.Qwen2_5_VLConfig(vision_config=eyes, text_config=_TEXT | _MROPE, **_QWEN_IDS)
    )


def _idefics3() -> PreTrainedModel:
    return tf.Idefics3ForConditionalGeneration(
        tf.Idefics3Config(
            vision_config=_EYES | {"image_size": 32, "patch_size": 8}, text_config=tf.LlamaConfig(**_TEXT),
            scale_factor=2, image_token_id=_IDS["<image>"], pad_token_id=0,
        )
    )  # fmt: skip


def _smolvlm() -> PreTrainedModel:
    return tf.SmolVLMForConditionalGeneration(
        tf.SmolVLMConfig(
            vision_config=_EYES | {"image_size": 32, "patch_size": 8}, text_config=tf.LlamaConfig(**_TEXT),
            scale_factor=2, image_token_id=_IDS["<image>"], pad_token_id=0,
        )
    )  # fmt: skip


def _gemma3() -> PreTrainedModel:
    text = tf.Gemma3TextConfig(
        **_TEXT, head_dim=16, sliding_window=14, query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    return tf.Gemma3ForConditionalGeneration(
        tf.Gemma3Config(
            text_config=text, vision_config=_EYES | {"image_size": 32, "patch_size": 8},
            mm_tokens_per_image=16, boi_token_index=_IDS["<start_of_image>"],
            eoi_token_index=_IDS["<end_of_image>"], image_token_index=_IDS["<image_soft_token>"],
        )
    )  # fmt: skip


def _internvl() -> PreTrainedModel:
    return tf.InternVLForConditionalGeneration(
        tf.InternVLConfig(
            vision_config=_EYES | {"image_size": [32, 32], "patch_size": [8, 8]},
            text_config=tf.Qwen2Config(**_TEXT), image_token_id=_IDS["<IMG_CONTEXT>"], downsample_ratio=0.5,
        )
    )  # fmt: skip


_SQUARE = {"height": 32, "width": 32}

# Model, what its chat template writes for a picture, and its image processor.
VLMS: dict[str, tuple[Callable[[], PreTrainedModel], str, Callable[[], Any]]] = {
    "llava": (
        _llava, "<image>",
        lambda: tf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=_SQUARE),
    ),
    "llava-siglip": (_llava_siglip, "<image>", lambda: tf.SiglipImageProcessorPil(size=_SQUARE)),
    "llava-next": (
        _llava_next, "<image>",
        lambda: tf.LlavaNextImageProcessorPil(
            size={"shortest_edge": 32}, crop_size=_SQUARE, image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]]
        ),
    ),
    "qwen2-vl": (
        _qwen2_vl, "<|vision_start|><|image_pad|><|vision_end|>",
        lambda: tf.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=32 * 32, max_pixels=64 * 96),
    ),
    "qwen2.5-vl": (
        _qwen2_5_vl, "<|vision_start|><|image_pad|><|vision_end|>",
        lambda: tf.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=32 * 32, max_pixels=64 * 96),
    ),
    "idefics3": (
        _idefics3, "<image>",
        lambda: tf.Idefics3ImageProcessorPil(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
        ),
    ),
    "smolvlm": (
        _smolvlm, "<image>",
        lambda: tf.SmolVLMImageProcessorPil(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
        ),
    ),
    "gemma3": (_gemma3, "<start_of_image>", lambda: tf.Gemma3ImageProcessorPil(size=_SQUARE)),
    "internvl": (
        _internvl, "<IMG_CONTEXT>",
        lambda: tf.GotOcr2ImageProcessorPil(size=_SQUARE, min_patches=1, max_patches=4, crop_to_patches=True),
    ),
}  # fmt: skip


def tiny_vlm(name: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Any]:
    """The tiny model called `name` with its tokenizer and image processor; always the same weights."""
    torch.manual_seed(seed)
    make, mark, eyes = VLMS[name]
    model = make().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            text = "language_model" in key or "text_model" in key
            if text and parameter.ndim > 1 and "embed" not in key:
                parameter.mul_(4.0)
            if "mm_input_projection" in key:  # starts as zeros
                parameter.normal_(std=0.1)
    return model, tokenizer(mark), eyes()
