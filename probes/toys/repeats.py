"""A world of repetition: random letters and digits, of which a stretch comes again.

The smallest task that takes two heads, one to say what stands before and one to look for it. The
models trained on it have so few heads that every set of them can be tried; see `exhaustive`.
"""

from __future__ import annotations

from random import Random
from string import ascii_lowercase, digits
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from headscope.probes.prompts import Contrast, Prompt

ALPHABET = ascii_lowercase + digits
SPECIAL = ("<unk>", "<s>")
BOS = 1
LENGTH = 40  # most tokens of a text
_BETWEEN = 3  # tokens between the parts of a prompt


def tokenizer_of() -> PreTrainedTokenizerFast:
    """One token a letter or digit, `<s>` first."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *ALPHABET))}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = Fuse()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", model_max_length=LENGTH,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def texts(count: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """`count` texts in which no token comes twice but for a stretch that does, all of one shape.

    Returns:
        token ids [count, T], and where the stretch comes again; from the token after, texts can be known.
    """
    long, gap, lead = (
        int(torch.randint(a, b, (), generator=generator)) for a, b in ((4, 13), (0, 8), (0, 8))
    )
    drawn = torch.rand(count, len(ALPHABET), generator=generator).argsort(1)[:, : lead + long + gap]
    stretch = drawn[:, lead : lead + long]
    ids = torch.cat([drawn, stretch], 1) + len(SPECIAL)
    return torch.cat([torch.full((count, 1), BOS), ids], 1), 1 + lead + long + gap


def model_config(layers: int, heads: int) -> dict[str, Any]:
    """The shape: a small Llama."""
    return {
        "vocab_size": len(SPECIAL) + len(ALPHABET), "hidden_size": 48, "intermediate_size": 64,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
        "max_position_embeddings": LENGTH, "tie_word_embeddings": False, "bos_token_id": BOS,
        "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip


def repeats_prompts(count: int, seed: int = 0) -> list[Prompt]:
    """`… w z … x y … x` → y; in the counterfactual w and x have changed places, so that z follows x.

    Args:
        count: how many.
        seed: everything random follows from it.
    """
    rng, made = Random(f"repeats/{seed}"), list[Prompt]()
    for _ in range(count):
        drawn = [t + len(SPECIAL) for t in rng.sample(range(len(ALPHABET)), 4 + 3 * _BETWEEN)]
        (w, x, y, z), rest = drawn[:4], drawn[4:]
        gap = [rest[i : i + _BETWEEN] for i in range(0, len(rest), _BETWEEN)]
        clean, twin = (
            [BOS, *gap[0], first, z, *gap[1], second, y, *gap[2], x] for first, second in ((w, x), (x, w))
        )
        made.append(
            Prompt(
                "repeats", (*clean, y), answer=(len(clean), len(clean) + 1),
                contrast=Contrast(tuple(twin), (y,), (z,)),
            )
        )  # fmt: skip
    return made
