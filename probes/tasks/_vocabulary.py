"""Ordinary token ids, for prompts that are no text at all."""

from __future__ import annotations

from random import Random
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.tokens import decode

_LEAST = 8  # ordinary tokens that a tokenizer must have


def candidates(tokenizer: Any) -> list[int]:
    """All ids of the vocabulary but the special and added ones, ascending."""
    reserved = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return sorted(set(tokenizer.get_vocab().values()) - reserved)


def draw(tokenizer: Any, ids: list[int], count: int, rng: Random) -> list[int]:
    """`count` random ordinary ids out of `ids`; none comes twice before all have come once.

    Ordinary: it decodes to visible text, and that text becomes this token again.

    Raises:
        HeadscopeError: the tokenizer has hardly any such tokens.
    """
    order, found = rng.sample(ids, len(ids)), list[int]()
    batch = max(64, count + count // 8)
    for begin in range(0, len(order), batch):
        found += _ordinary(tokenizer, order[begin : begin + batch])
        if len(found) >= count:
            return found[:count]
    if len(found) < _LEAST:
        raise HeadscopeError(
            f"Only {len(found)} of the {len(ids)} tokens of this tokenizer are plain text that "
            "survives tokenising, too few for random tokens."
        )
    drawn = found
    while len(drawn) < count:
        drawn = drawn + rng.sample(found, len(found))
    return drawn[:count]


def _ordinary(tokenizer: Any, ids: list[int]) -> list[int]:
    texts = [decode(tokenizer, [i]) for i in ids]
    visible = [
        (i, t) for i, t in zip(ids, texts, strict=True)
        if t.strip() and t.isprintable() and "\ufffd" not in t
    ]  # fmt: skip
    if not visible:
        return []
    again = tokenizer([t for _, t in visible], add_special_tokens=False, verbose=False)["input_ids"]
    return [i for (i, _), back in zip(visible, again, strict=True) if list(back) == [i]]


def start(tokenizer: Any) -> list[int]:
    """The token a sequence begins with: BOS, or what the tokenizer puts first, or a line break."""
    if tokenizer.bos_token_id is not None:
        return [int(tokenizer.bos_token_id)]
    bare = list(tokenizer("\n", add_special_tokens=False, verbose=False)["input_ids"])
    full = list(tokenizer("\n", add_special_tokens=True, verbose=False)["input_ids"])
    first = full[:1] if full[:1] != bare[:1] else bare[:1]
    return [int(i) for i in first]
