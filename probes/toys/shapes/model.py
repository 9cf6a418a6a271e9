"""The vision-language model that looks at scenes: LLaVA's architecture, very small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from headscope.probes.toys.shapes.language import END, IMAGE, START, WORDS
from headscope.probes.toys.shapes.raster import SIDE

PATCH = 8  # pixels a side
PATCHES = (SIDE // PATCH) ** 2
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "vision": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4},
        "text": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6},
    },
    "tiny": {
        "vision": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
        "text": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2},
    },
}


def untrained(size: str, seed: int) -> LlavaForConditionalGeneration:
    """A model of one of `SIZES` with random weights."""
    torch.manual_seed(seed)
    shape = SIZES[size]
    vision = CLIPVisionConfig(
        **shape["vision"], num_attention_heads=4, image_size=SIDE, patch_size=PATCH, projection_dim=64
    )
    text = LlamaConfig(
        **shape["text"], num_attention_heads=8, vocab_size=len(WORDS), max_position_embeddings=512,
        bos_token_id=START, eos_token_id=END, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=PATCHES,
        vision_feature_layer=-1, vision_feature_select_strategy="default", tie_word_embeddings=True,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = END, 0
    return model


def seen(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """What the language model is given of pictures, one vector a patch. [B, PATCHES, hidden]"""
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    features: Tensor = model.model.multi_modal_projector(states[:, 1:])
    return features


def read(model: LlavaForConditionalGeneration, features: Tensor | None, ids: Tensor) -> Tensor:
    """Logits that predict every token of texts after a picture, or without one. [B, n, vocabulary]"""
    embed = model.get_input_embeddings()
    start = embed(torch.full_like(ids[:, :1], START))
    parts = [start, embed(ids[:, :-1])]
    if features is not None:
        parts.insert(1, features.to(start.dtype))
    hidden = model.model.language_model(inputs_embeds=torch.cat(parts, 1), use_cache=False).last_hidden_state
    logits: Tensor = model.lm_head(hidden[:, -ids.shape[1] :])
    return logits


def tokenizer_of() -> PreTrainedTokenizerFast:
    """One token a word; every text begins with `<s>`."""
    inner = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write the weights in half precision, the tokenizer and the image processor."""
    half = {name: value.half().cpu() for name, value in model.state_dict().items()}
    twin: Any = LlavaForConditionalGeneration(model.config).half()
    twin.load_state_dict(half)
    twin.generation_config = model.generation_config
    twin.save_pretrained(folder)
    side = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessor(size=side, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    LlavaProcessor(
        pictures, tokenizer_of(), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
