"""Small tokenizers of the kinds that matter to labels, trained on the spot."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from headscope.probes import TASKS, Prompt
from headscope.probes.haystack import default_text
from headscope.probes.tasks import _words
from headscope.probes.tasks.needle import WORDINGS

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
_SPECIAL = ["<unk>", "<s>", "</s>", "<|turn|>", "<|end|>"]


def _corpus() -> list[str]:
    return [*default_text()[:60_000].split("\n\n"), " ".join(string.printable)]


def _wrap(tokenizer: Tokenizer, **more: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens=["<|turn|>", "<|end|>"], **more,
    )  # fmt: skip


def bytes_digits() -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits and a chat template, after Llama 3 and SmolLM2."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, special_tokens=_SPECIAL)
    )
    return _wrap(t, chat_template=CHAT)


def bytes_triples() -> PreTrainedTokenizerFast:
    """Byte-level BPE with digits in groups of up to three, without a chat template or BOS."""
    t = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\d{1,3}| ?\p{L}+| ?[^\s\p{L}\d]+|\s+"), "isolated")
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    numbers = [f"{i:03d}" for i in range(0, 1000, 3)] * 3
    t.train_from_iterator(
        [*_corpus(), *numbers],
        trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, special_tokens=["<unk>"]),
    )
    return PreTrainedTokenizerFast(tokenizer_object=t, unk_token="<unk>")


def prefix_space() -> PreTrainedTokenizerFast:
    """Sentencepiece-style BPE: a blank before the text, byte fallback, BOS added; after Llama 2."""
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    fallback = [f"<0x{i:02X}>" for i in range(256)]
    t.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=1500, special_tokens=[*_SPECIAL, *fallback])
    )
    t.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )  # fmt: skip
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrap(t)


def unigram() -> PreTrainedTokenizerFast:
    """A Unigram model over metaspaces that ends every text with a token of its own; after T5."""
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.NFKC()
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(
        _corpus(), trainers.UnigramTrainer(vocab_size=900, special_tokens=_SPECIAL, unk_token="<unk>")
    )
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return _wrap(t)


def words(digits: bool = True) -> PreTrainedTokenizerFast:
    """Whole words of the default haystack, lower case; numbers are unknown unless split into digits."""
    t = Tokenizer(models.WordLevel(unk_token="<unk>"))
    t.normalizer = normalizers.Lowercase()
    split: list[Any] = [pre_tokenizers.Whitespace()]
    t.pre_tokenizer = pre_tokenizers.Sequence(split + [pre_tokenizers.Digits(True)] * digits)
    values = [getattr(_words, name) for name in dir(_words) if name.isupper()]
    facts = [w(Random(i)) for w in WORDINGS.values() for i in range(40)]
    text = [
        default_text(), *_corpus(), "What is the value of this JSON data? Remember: passkey of",
        *(" ".join(v) + " " + "s ".join(v) + "s" for v in values),
        *(f"{f.sentence} {f.question} {f.lead}" for f in facts),
    ]  # fmt: skip
    t.train_from_iterator(text, trainers.WordLevelTrainer(special_tokens=_SPECIAL))
    return _wrap(t)


class Letters(PreTrainedTokenizer):
    """A slow tokenizer, one token per character, without offsets."""

    def __init__(self, lossy: bool = False, **more: Any) -> None:
        self.lossy = lossy
        self._ids = {chr(i): i for i in range(256)} | {"<unk>": 256, "<s>": 257}
        super().__init__(unk_token="<unk>", bos_token="<s>", **more)

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._ids)

    def _tokenize(self, text: str, **more: Any) -> list[str]:
        return list(text.replace("e", "") if self.lossy else text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, 256)

    def _convert_id_to_token(self, index: int) -> str:
        return {i: c for c, i in self._ids.items()}[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


KINDS = {
    "bytes_digits": bytes_digits, "bytes_triples": bytes_triples, "prefix_space": prefix_space,
    "unigram": unigram, "words": words, "letters": Letters,
}  # fmt: skip


@cache
def tokenizer(kind: str) -> Any:
    """The tokenizer of that kind, made once."""
    return KINDS[kind]()


FAST = sorted(set(KINDS) - {"letters"})
KNOWLEDGE = ["agreement", "closed_book", "conflict"]
PAIRS = [
    "arithmetic",
    "choice",
    "coloured_objects",
    "delimiters",
    "docstring",
    "greater_than",
    "induction",
    "ioi",
    "retrieval",
    *KNOWLEDGE,
]


def make(
    task: str, kind: Any, lengths: Sequence[int] = (600,), per_length: int = 6, seed: int = 0, **more: Any
) -> list[Prompt]:
    made = tokenizer(kind) if isinstance(kind, str) else kind
    haystack = more.get("haystack")
    return TASKS[task].prompts(made, lengths=lengths, per_length=per_length, seed=seed, haystack=haystack)


def text_of(kind: Any, ids: Sequence[int]) -> str:
    """Decoded, without blanks and case, which a tokenizer may change."""
    made = tokenizer(kind) if isinstance(kind, str) else kind
    text = made.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
