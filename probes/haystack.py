"""Text to hide things in: where it comes from, where its sentences end, how to cut it by tokens.

A haystack is tokenised once per tokenizer and then cut by character offsets, so that making a
prompt costs the tokenisation of that prompt alone.
"""

from __future__ import annotations

import re
import weakref
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from random import Random
from typing import Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.tokens import Encoded, encode

# A full stop counts where no small letter follows; a blank line ends a sentence too (headings).
SENTENCE = re.compile(
    r"[.!?…]+[\"'”’)\]]*(?=\s+[^\sa-z.,;:)\]]|\s*\Z)"
    r"|[。！？]+[」』”）]*"
    r"|(?<=\S)(?=[ \t]*\n\s*\n)"
)
LINE = re.compile(r"(?<=\S)(?=[ \t]*(\n|\Z))")
_REACH = 1000  # characters: no sentence is longer than this
_WORD = 24  # characters: a cut moves back this far to fall between two words
_KEPT = 4  # tokenised haystacks kept for one tokenizer


def clean(text: str) -> str:
    """`text` without what no tokenizer can be trusted with: control characters and half surrogates."""
    text = re.sub(r"\r\n?|[\u2028\u2029\x85]", "\n", text.replace("\ufeff", ""))
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", " ", text).strip()


@lru_cache(maxsize=1)
def default_text() -> str:
    """About 190,000 characters of readable English out of the standard library's `pydoc_data.topics`.

    Topics in alphabetical order; headings, grammar, code, tables and lists are left out, and a
    paragraph that several topics share is kept once. The text belongs to the Python version.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise HeadscopeError(
            "This Python lacks pydoc_data.topics, the default haystack: pass a haystack of your own."
        ) from error
    blocks = (b for name in sorted(topics) for b in re.split(r"\n\s*\n", topics[name]))
    return "\n\n".join(dict.fromkeys(p for p in map(_paragraph, blocks) if p))


def _paragraph(block: str) -> str:
    """A block of documentation as one line of prose, or nothing if it is not prose."""
    lines = [line.strip() for line in block.strip().split("\n")]
    if any(re.fullmatch(r"[^\w\s]{3,}|\+[-=+]+", line) for line in lines):
        return ""  # an underlined heading, a table
    text = re.sub(r"\s+", " ", re.sub(r"(\w)-\n(\w)", r"\1-\2", "\n".join(lines)))
    text = re.sub(r"(?<![\w*])\*{1,2}([^*\s][^*]*?)\*{1,2}(?![\w*])", r"\1", text)
    text = re.sub(r"\s*\[\d+\]", "", text)
    if text.endswith(":"):  # it announces something that was left out
        text = text[: text.rfind(". ") + 1]
    if not re.match(r"[\"“]?[A-Z].*[.!?][\"”)]?$", text) or len(text.split()) < 8:
        return ""
    if re.search(r"^(Changed|New|Deprecated) in|>>>|::=|\s[=|+<>]+\s|[{}]", text):
        return ""
    plain = sum(c.isalpha() or c in " ,." for c in text)
    return text if plain >= 0.9 * len(text) else ""


class Haystack:
    """A text, tokenised once.

    Attributes:
        text: the cleaned text, without the tokenizer's special tokens.
        starts: where a window may begin: at the text's start and after every boundary.
    """

    def __init__(self, encoded: Encoded, text: str, boundary: re.Pattern[str]) -> None:
        self.text = text
        # Blanks can be tokens that stand for no characters: they count, where they are.
        self._begin = array("l", accumulate((a for a, _ in encoded.offsets), max))
        self._end = array("l", accumulate((b for _, b in encoded.offsets), max))
        found = list(boundary.finditer(text)) or list(LINE.finditer(text))
        after = (_skip_blank(text, m.end()) for m in found)
        self.starts = sorted({_skip_blank(text, 0), *after} - {len(text)})

    @classmethod
    def of(cls, tokenizer: Any, text: str | None = None, boundary: re.Pattern[str] = SENTENCE) -> Haystack:
        """The haystack of `text` (None: the default text), made anew only if it was not kept."""
        kept = _cache.setdefault(tokenizer, {})
        key = (text, boundary)
        if key not in kept:
            plain = clean(default_text() if text is None else text)
            for special in sorted(_special_strings(tokenizer), key=len, reverse=True):
                plain = plain.replace(special, " ")
            kept[key] = cls(encode(tokenizer, plain), plain, boundary)
            if len(kept) > _KEPT:
                del kept[next(iter(kept))]
        return kept[key]

    def __len__(self) -> int:
        """Tokens in all."""
        return len(self._begin)

    def window(self, start: int, tokens: int) -> str:
        """The text from character `start` that holds at most about `tokens` tokens.

        It ends between two words where there are words.
        """
        last = min(bisect_left(self._begin, start) + tokens, len(self)) - 1
        stop = self._end[last] if tokens > 0 and last >= 0 else start
        if stop < len(self.text) and not self.text[stop].isspace():
            blanks = list(re.finditer(r"\s", self.text[max(start, stop - _WORD) : stop]))
            stop = max(start, stop - _WORD) + blanks[-1].start() if blanks else stop
        return self.text[start:stop].rstrip()

    def choose(self, tokens: int, count: int, rng: Random) -> list[int]:
        """`count` different starts that leave room for `tokens` tokens, spread over the text.

        Raises:
            HeadscopeError: the text is too short, or has too few places to begin at.
        """
        if len(self) < tokens:
            raise HeadscopeError(
                f"The haystack is too short: this prompt needs {tokens} tokens of it, and it has {len(self)}."
            )
        last = self._begin[len(self) - tokens]
        room = self.starts[: max(1, bisect_right(self.starts, last))]
        if len(room) < count:
            raise HeadscopeError(
                f"The haystack is too short: {count} different windows of {tokens} tokens were "
                f"asked for, and its {len(self)} tokens hold {len(room)}."
            )
        cuts = [i * len(room) // count for i in range(count + 1)]
        return [room[rng.randrange(a, b)] for a, b in pairwise(cuts)]


_cache: weakref.WeakKeyDictionary[Any, dict[Any, Haystack]] = weakref.WeakKeyDictionary()


def _special_strings(tokenizer: Any) -> set[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return {str(t) for t in [*tokenizer.all_special_tokens, *(a for a in added if a.special)]} - {""}


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def insert(text: str, sentences: Sequence[tuple[str, float]]) -> tuple[str, list[float]]:
    """Put each sentence into `text` at the sentence boundary nearest to its depth (0 ... 1).

    Returns:
        the new text, and for each sentence the depth at which it really stands.

    Raises:
        HeadscopeError: there is no boundary anywhere near.
    """
    places = [_nearest_end(text, depth) for _, depth in sentences]
    made, done = "", 0
    for i in sorted(range(len(places)), key=places.__getitem__):
        made = _join(_join(made, text[done : places[i]]), sentences[i][0])
        done = places[i]
    return _join(made, text[done:]), [round(at / max(1, len(text)), 4) for at in places]


def _nearest_end(text: str, depth: float) -> int:
    for pattern in (SENTENCE, LINE):
        ends = [0, *(m.end() for m in pattern.finditer(text))]
        nearest = min(ends, key=lambda end: abs(end - depth * len(text)))
        if abs(nearest - depth * len(text)) <= _REACH:
            return nearest
    raise HeadscopeError(
        f"The haystack has no end of a sentence or line within {_REACH} characters of depth "
        f"{depth:g}, so nothing can be hidden there."
    )


def _join(left: str, right: str) -> str:
    """Both texts, with a blank between them only where neither brings one."""
    gap = left and right and not left[-1].isspace() and not right[0].isspace()
    return left + (" " if gap else "") + right
