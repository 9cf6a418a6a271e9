"""Where the text comes from, where its sentences end, and how it is cut."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_zoo import bytes_digits, tokenizer

from headscope.probes import HeadscopeError
from headscope.probes.haystack import SENTENCE, Haystack, clean, default_text, insert


def ends(text: str) -> list[str]:
    return [text[: m.end()] for m in SENTENCE.finditer(text)]


def test_default_text_is_prose() -> None:
    text = default_text()
    paragraphs = text.split("\n\n")
    assert len(text) > 150_000
    assert len(set(paragraphs)) == len(paragraphs)
    assert all(p[-1] in '.!?"”)' and p == p.strip() and "\n" not in p for p in paragraphs)
    assert not any(mark in text for mark in ("::=", ">>>", "****", "===", "   "))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two? Three!", ["One.", "One. Two?", "One. Two? Three!"]),
        ('He said "go." Then left.', ['He said "go."', 'He said "go." Then left.']),
        ("Pi is 3.14, e.g. here. Yes", ["Pi is 3.14, e.g. here."]),
        ("Title\n\nText goes on", ["Title"]),
        ("wrapped\nline", []),
        ("第一句。第二句。", ["第一句。", "第一句。第二句。"]),
        ("", []),
    ],
    ids=["plain", "quoted", "numbers", "heading", "wrapped", "chinese", "empty"],
)
def test_sentence_ends(text: str, expected: list[str]) -> None:
    assert ends(text) == expected


def test_clean_drops_what_breaks_tokenizers() -> None:
    assert clean("\ufeffa\x00b\x1b[0m\r\nc\ud800d\u2028e\t") == "a b [0m\nc d\ne"


@given(
    text=st.text(alphabet='ab .!?\n。"', max_size=200),
    depths=st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
def test_insert_keeps_the_text(text: str, depths: list[float]) -> None:
    sentences = [f"<{i}>" for i in range(len(depths))]
    made, placed = insert(text, list(zip(sentences, depths, strict=True)))
    assert all(made.count(s) == 1 for s in sentences)
    assert all(0 <= d <= 1 for d in placed)
    for s in sentences:
        made = made.replace(s, "")
    assert "".join(made.split()) == "".join(text.split())


def test_insert_at_the_nearest_end() -> None:
    made, placed = insert("One. Two. Three. Four.", [("X.", 0.5), ("Y.", 0.0), ("Z.", 1.0)])
    assert made == "Y. One. Two. X. Three. Four. Z."
    assert placed == [0.4091, 0.0, 1.0]


def test_insert_falls_back_on_lines_and_then_refuses() -> None:
    lines = "\n".join("x" * 50 for _ in range(100))
    made, placed = insert(lines, [("Here.", 0.5)])
    assert "\n" + "x" * 50 + " Here.\n" in made
    assert placed[0] == pytest.approx(0.5, abs=0.01)
    with pytest.raises(HeadscopeError, match=r"no end of a sentence or line within 1000 characters"):
        insert("x " * 3000, [("Here.", 0.5)])


@pytest.mark.parametrize("kind", ["bytes_digits", "prefix_space", "unigram", "words"])
@settings(deadline=None, max_examples=30)
@given(tokens=st.integers(1, 900), seed=st.integers(0, 10**6))
def test_windows_hold_about_their_tokens(kind: str, tokens: int, seed: int) -> None:
    made = tokenizer(kind)
    hay = Haystack.of(made)
    (start,) = hay.choose(tokens, 1, random.Random(seed))
    window = hay.window(start, tokens)
    assert hay.text.startswith(window, start)
    count = len(made(window, add_special_tokens=False)["input_ids"])
    assert tokens - 24 <= count <= tokens + 8


def test_starts_are_spread_and_follow_a_boundary() -> None:
    hay = Haystack.of(tokenizer("bytes_digits"))
    starts = hay.choose(500, 20, random.Random(0))
    assert starts == sorted(set(starts))
    assert starts[0] < len(hay.text) / 10
    assert starts[-1] > len(hay.text) * 0.8
    ended = {m.end() for m in SENTENCE.finditer(hay.text)} | {0}
    assert all(len(hay.text[:s].rstrip()) in ended for s in starts)


def test_too_short_says_how_much() -> None:
    hay = Haystack.of(tokenizer("words"), "One two three. Four five six.")
    assert len(hay) == 8
    with pytest.raises(HeadscopeError, match="this prompt needs 9 tokens of it, and it has 8"):
        hay.choose(9, 1, random.Random(0))
    with pytest.raises(HeadscopeError, match=r"3 different windows of 4 tokens .* its 8 tokens hold 2"):
        hay.choose(4, 3, random.Random(0))


def test_special_tokens_of_the_tokenizer_are_removed() -> None:
    hay = Haystack.of(tokenizer("bytes_digits"), "A sentence.<|end|>\n<s>Another</s> one.")
    assert not any(s in hay.text for s in ("<|end|>", "<s>", "</s>"))


def test_a_haystack_is_kept_with_its_tokenizer_and_goes_with_it() -> None:
    made = bytes_digits()
    assert Haystack.of(made, "Some text.") is Haystack.of(made, "Some text.")
    assert Haystack.of(made, "Some text.") is not Haystack.of(made, "Other text.")
    kept = weakref.ref(Haystack.of(made, "Some text."))
    for i in range(5):
        Haystack.of(made, f"Text number {i}.")
    gc.collect()
    assert kept() is None
    kept = weakref.ref(Haystack.of(made, "Text number 4."))
    del made
    gc.collect()
    assert kept() is None
