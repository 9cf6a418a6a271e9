"""The Bigram-Backcopy world: characters of the default haystack, three of them triggers.

Guo et al. 2024 (arXiv 2410.13835) draw characters from the bigram statistics of Tiny Shakespeare; after
a trigger, one of the most frequent characters, comes the character before it again. Here the text is
one that every Python has, in small letters. A model needs its attention only after triggers; what it
does with it elsewhere is the theory's subject: it rests on `<s>`, whose value fades.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace, Sequence
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from headscope.probes.seam import AttentionCall
from headscope.probes.tasks.backcopy import Language

# Without punctuation: a comma always calls for a space, a space for the comma again, without end.
ALPHABET = "abcdefghijklmnopqrstuvwxyz \n"
SPECIAL = ("<unk>", "<s>")
BOS = 1
LENGTH = 64  # tokens of a sequence, `<s>` included


def tokenizer_of() -> PreTrainedTokenizerFast:
    """One token a character, capitals as small letters, all but letters and blanks left out, `<s>` first."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *ALPHABET))}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = Sequence([Lowercase(), Replace(Regex(f"[^{ALPHABET}]"), "")])
    inner.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = Fuse()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", model_max_length=LENGTH,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


@dataclass(frozen=True)
class World:
    """The task's probabilities. V tokens.

    Attributes:
        unigram: of the first token, without triggers. [V]
        bigram: row i is what follows token i in the text; nothing follows special tokens. [V, V]
        trigger: which tokens are triggers. [V]
    """

    unigram: Tensor
    bigram: Tensor
    trigger: Tensor

    @property
    def entropy(self) -> Tensor:
        """Of what follows each token, in nats; the least loss that a model can have there. [V]"""
        return torch.special.entr(self.bigram).sum(-1)

    def sequences(self, count: int, generator: torch.Generator, length: int = LENGTH) -> Tensor:
        """`count` texts. [count, length], token ids"""
        ids = torch.full((count, length), BOS)
        ids[:, 1] = torch.multinomial(self.unigram, count, replacement=True, generator=generator)
        for t in range(2, length):
            drawn = torch.multinomial(self.bigram[ids[:, t - 1]], 1, generator=generator)[:, 0]
            ids[:, t] = torch.where(self.trigger[ids[:, t - 1]], ids[:, t - 2], drawn)
        return ids


def world() -> World:
    """That of the default haystack."""
    tokenizer = tokenizer_of()
    size, language = len(tokenizer), Language.of(tokenizer)
    ids = torch.tensor(language.ids)
    pairs = torch.bincount(ids * size + ids.roll(-1), minlength=size * size).view(size, size).double()
    trigger = torch.zeros(size, dtype=torch.bool)
    trigger[list(language.trigger_ids)] = True
    first = torch.bincount(ids, minlength=size).double() * ~trigger
    # A token that the text lacks is never drawn; its row only has to be a distribution.
    pairs[pairs.sum(-1) == 0] = first
    return World(first / first.sum(), pairs / pairs.sum(-1, keepdim=True), trigger)


def softmax_weights(call: AttentionCall) -> Tensor:
    """The attention weights of a whole short text without padding. [B, H, T, T]"""
    hidden = torch.ones(call.q.shape[2], call.q.shape[2], device=call.q.device).triu(1).bool()
    return scores(call).masked_fill(hidden, -torch.inf).softmax(-1)


def relu_weights(call: AttentionCall) -> Tensor:
    """relu(score) over the number of visible keys: a head with nothing to do can attend to nothing.

    The variant of Guo et al. that has no sinks. [B, H, T, T]
    """
    seen = torch.arange(1, call.q.shape[2] + 1, device=call.q.device, dtype=call.q.dtype)
    return scores(call).relu().tril() / seen[:, None]


def scores(call: AttentionCall) -> Tensor:
    """Scaled products of all queries and keys, hidden ones too. [B, H, T, T]"""
    return (call.q @ call.k.transpose(-1, -2)) * call.scaling


def weighted(weights: Callable[[AttentionCall], Tensor]) -> Callable[[AttentionCall], Tensor]:
    """Attention with those weights, for `attach`: `attach(model, attend=weighted(relu_weights))`."""
    return lambda call: (weights(call) @ call.v).transpose(1, 2)


def model_config(layers: int) -> dict[str, Any]:
    """The shape: pre-norm, one head a layer, a ReLU MLP, learned positions, as in the paper but smaller."""
    return {
        "vocab_size": len(SPECIAL) + len(ALPHABET), "n_positions": LENGTH, "n_embd": 64, "n_layer": layers,
        "n_head": 1, "n_inner": 16, "activation_function": "relu", "resid_pdrop": 0.0, "embd_pdrop": 0.0,
        "attn_pdrop": 0.0, "tie_word_embeddings": False, "bos_token_id": BOS, "eos_token_id": None,
    }  # fmt: skip
