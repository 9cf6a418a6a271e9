"""Tiny randomly initialised transformers models: each architecture in the form it has."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
import transformers as tf
from transformers import PreTrainedModel

from headscope.probes import Contrast, Prompt

_COMMON: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _llama(**changes: Any) -> PreTrainedModel:
    return tf.LlamaForCausalLM(tf.LlamaConfig(**(_COMMON | changes)))


ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": _llama,
    "llama-one-kv-head": lambda: _llama(num_key_value_heads=1),
    "llama-no-groups": lambda: _llama(num_key_value_heads=6),
    "llama-wide-heads": lambda: _llama(head_dim=16),
    "mistral-window": lambda: tf.MistralForCausalLM(tf.MistralConfig(**_COMMON, sliding_window=12)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**_COMMON)),
    "qwen2-window": lambda: tf.Qwen2ForCausalLM(
        tf.Qwen2Config(**_COMMON, use_sliding_window=True, sliding_window=10, max_window_layers=1)
    ),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**_COMMON, head_dim=16)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(
        tf.Gemma2Config(
            **_COMMON, head_dim=16, sliding_window=14, attn_logit_softcapping=5.0,
            query_pre_attn_scalar=16,
        )
    ),
    "gemma3": lambda: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(
            **_COMMON, head_dim=16, sliding_window=14, query_pre_attn_scalar=16,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    ),
    "phi3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**_COMMON)),
    "olmo2": lambda: tf.Olmo2ForCausalLM(tf.Olmo2Config(**_COMMON)),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=96, n_embd=48, n_layer=3, n_head=6, n_positions=256)
    ),
    "gpt-neox": lambda: tf.GPTNeoXForCausalLM(
        tf.GPTNeoXConfig(
            vocab_size=96, hidden_size=48, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=6, max_position_embeddings=256,
        )
    ),
    "gpt-oss": lambda: tf.GptOssForCausalLM(
        tf.GptOssConfig(
            **_COMMON, head_dim=16, sliding_window=14, num_local_experts=2, num_experts_per_tok=1,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    ),
}  # fmt: skip


def tiny(name: str, seed: int = 0) -> PreTrainedModel:
    """The tiny model called `name`, always with the same weights, attention far from uniform."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[name]().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in key:
                parameter.mul_(4.0)
            if "sinks" in key:
                parameter.normal_()
    return model


def eager_attentions(model: PreTrainedModel, **inputs: Any) -> tuple[torch.Tensor, ...]:
    """Attention weights by the model's own eager code. [B, H, Tq, N] per layer"""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            found: tuple[torch.Tensor, ...] = model(**inputs, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(before)
    return found


def random_pairs(lengths: tuple[int, ...] = (9, 12), seed: int = 0) -> list[Prompt]:
    """Random prompts whose counterfactuals differ in three places."""
    rng, made = Random(seed), []
    for n in lengths:
        ids = [rng.randrange(3, 96) for _ in range(n)]
        twin = list(ids)
        for place in (1, 4, n - 2):
            twin[place] = rng.randrange(3, 96)
        made.append(
            Prompt(
                "random", (*ids, 5), spans={"middle": (2, 6)}, answer=(n, n + 1),
                contrast=Contrast(tuple(twin), (5, 7), (9,)),
            )
        )  # fmt: skip
    return made
