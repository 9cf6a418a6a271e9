"""The planted models' language: a vocabulary, a tokenizer, and a haystack of made-up words."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

from headscope.probes.tasks import _words
from headscope.probes.tasks.needle import WORDINGS

BOS, ANSWER, DELIMITER, UNKNOWN = "<s>", "<|answer|>", "¶", "<unk>"
_SPECIAL = (UNKNOWN, BOS, "</s>", ANSWER)
_HAY = 400  # made-up words: few enough to return, too many for two of them to return together
_SENTENCES, _SHORTEST, _LONGEST = 1600, 8, 14
_MARKED = 9  # every so many sentences have the delimiter in their middle
_CODE = ("(", ")", "[", "]", "{", "}", "=", "_", "#", "'", '"', "+", "*", "/", "self", "def", "return", "if")
_PLAIN = (".", ",", "?", ":", "-", "remember", "this", "passkey", "each", "owner", "when", "what")
_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ m.content }} "
    "{% else %}<|answer|> {{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|> {% endif %}"
)


@cache
def values() -> frozenset[str]:
    """The words that a needle's answer is made of; the haystack has none of them."""
    words = [*_words.ADJECTIVES, *_words.NOUNS, *_words.VERBS, *_words.FIRST_NAMES, *_words.SURNAMES]
    numbers = [str(i) for i in range(10)] + [f"{i:02d}" for i in range(100)]
    return frozenset(w.lower() for w in [*words, *(f"{n}s" for n in _words.NOUNS), *numbers])


def code_words() -> frozenset[str]:
    """The words of program text: symbols, some keywords, and whatever the vocabulary lacks."""
    return frozenset((*_CODE, UNKNOWN))


@cache
def hay_words() -> tuple[str, ...]:
    """The haystack's made-up words."""
    taken = {*values(), *_task_words()}
    rng, found = Random("planted/words"), dict[str, None]()
    while len(found) < _HAY:
        word = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3))
        if word not in taken:
            found[word] = None
    return tuple(found)


@cache
def _task_words() -> tuple[str, ...]:
    """What the tasks' own sentences and questions are made of."""
    facts = [wording(Random(i)) for wording in WORDINGS.values() for i in range(60)]
    sentences = " ".join(f"{f.sentence} {f.question} {f.lead}" for f in facts).replace("{v}", " ")
    for mark in ".,?":
        sentences = sentences.replace(mark, f" {mark} ")
    names = (*_words.CITIES, *_words.SHIPS, *_words.FIRST_NAMES)
    words = [*sentences.split(), *names, *_PLAIN, *_CODE]
    return tuple(dict.fromkeys(w.lower() for w in words))


@cache
def vocabulary() -> tuple[str, ...]:
    """All words; a word's place is its token id."""
    return tuple(dict.fromkeys([*_SPECIAL, DELIMITER, *_task_words(), *sorted(values()), *hay_words()]))


def tokenizer() -> Any:
    """One token a word, numbers in pairs of digits, lower case; a question and its answer as a chat."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary())}, unk_token=UNKNOWN))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"\d{1,2}|\p{L}+|[^\s\p{L}\d]"), "isolated"),
        ]
    )
    bos = vocabulary().index(BOS)
    inner.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token=UNKNOWN, bos_token=BOS, eos_token="</s>", pad_token="</s>",
        extra_special_tokens=[ANSWER], chat_template=_CHAT, clean_up_tokenization_spaces=False,
    )  # fmt: skip


@cache
def planted_haystack(seed: int = 0) -> str:
    """Sentences of random made-up words, a delimiter in the middle of every ninth."""
    rng, made = Random(f"planted/haystack/{seed}"), []
    for i in range(_SENTENCES):
        words = rng.choices(hay_words(), k=rng.randint(_SHORTEST, _LONGEST))
        if i % _MARKED == _MARKED // 2:
            words.insert(len(words) // 2, DELIMITER)
        words[0] = words[0].capitalize()
        made.append(" ".join(words) + ".")
    return " ".join(made)
