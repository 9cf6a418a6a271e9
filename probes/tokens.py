"""From characters to tokens: which tokens hold a piece of text, for any tokenizer.

Labels are found in the text and carried over by character offsets, never by comparing token
ids, since the same words can have other ids in another place.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headscope.probes.errors import HeadscopeError

_UNKNOWN = 32  # characters that one unknown token may stand for


class Unlabelled(HeadscopeError):
    """A place in a prompt that cannot be named by tokens without doubt."""


@dataclass(frozen=True)
class Encoded:
    """Token ids, and for each the characters `[begin, end)` it stands for (empty: none)."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def span(self, begin: int, end: int) -> tuple[int, int]:
        """The tokens that overlap the characters `[begin, end)`, as a half-open range."""
        inside = [i for i, (a, b) in enumerate(self.offsets) if a < end and b > begin and b > a]
        if not inside:
            raise Unlabelled(f"No token stands for the characters {begin} to {end} of a prompt.")
        return inside[0], inside[-1] + 1


def encode(tokenizer: Any, text: str, *, special: bool = False, slowly: bool = False) -> Encoded:
    """Tokenise `text` and say where every token comes from.

    Args:
        tokenizer: a transformers tokenizer, fast or slow.
        text: what to tokenise.
        special: let the tokenizer add its own tokens at the ends.
        slowly: work the offsets out from the decoded tokens even if the tokenizer offers some.

    Raises:
        HeadscopeError: no offsets, and the tokens do not spell the text.
    """
    fast = getattr(tokenizer, "is_fast", False) and not slowly
    wanted = {"return_offsets_mapping": True} if fast else {}
    out = tokenizer(text, add_special_tokens=special, verbose=False, **wanted)
    ids = tuple(int(i) for i in out["input_ids"])
    offsets = out["offset_mapping"] if fast else _spell(tokenizer, ids, text)
    return Encoded(ids, tuple((int(a), int(b)) for a, b in offsets))


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of `ids`, special tokens included, nothing tidied up."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _spell(tokenizer: Any, ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """Offsets for a tokenizer that gives none: walk along the text, token by decoded token.

    An unknown token stands for no characters; the walk goes on where the next one is found.
    """
    text = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    offsets, at, waiting, reach = [(0, 0)] * len(ids), 0, 0, 0
    special = set(tokenizer.all_special_ids)
    for i, token in enumerate(ids):
        piece = decode(tokenizer, ids[waiting : i + 1]).strip().lower()
        begin = _next(text, piece, at, reach)
        if begin >= 0:
            at = begin + len(piece)
            offsets[waiting : i + 1] = [(begin, at)] * (i + 1 - waiting)
        elif "\ufffd" in piece:  # the first bytes of a character: its other tokens follow
            continue
        elif token not in special:
            raise HeadscopeError(
                f"{type(tokenizer).__name__} gives no character offsets and its tokens do not spell "
                "the text they came from, so nothing in a prompt can be labelled; use its fast version."
            )
        waiting = i + 1
        if token == tokenizer.unk_token_id:
            reach += _UNKNOWN
        elif piece:
            reach = 0
    return offsets


def _next(text: str, piece: str, at: int, reach: int) -> int:
    """Where `piece` stands: after the blanks at `at`, or up to `reach` characters further on."""
    while piece and at < len(text) and text[at].isspace():
        at += 1
    return text.find(piece, at, at + len(piece) + reach)


def spells(tokenizer: Any, ids: Sequence[int], label: str) -> bool:
    """Whether `ids` decode to text that holds `label`, and would not with one token fewer."""
    wanted = _bare(label)
    tight = all(wanted not in _bare(decode(tokenizer, part)) for part in (ids[1:], ids[:-1]))
    return wanted in _bare(decode(tokenizer, ids)) and tight


def _bare(text: str) -> str:
    """`text` without the differences that a tokenizer may make: blanks, case, compatibility forms."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
