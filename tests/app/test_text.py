"""Tokens, examples, words and the text views."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.app import looks, machine, tables, terminal
from headscope.app.examples import examples
from headscope.app.progress import left
from headscope.app.tokens import strip, visible
from headscope.heads import HeadMap, Progress, ShownPrompt, read_evidence
from headscope.probes import HeadscopeError


@pytest.mark.parametrize(
    ("token", "seen"),
    [("\n", "⏎"), ("\t", "⇥"), (" ", "␣"), ("", "∅"), ("\x00", "\\x00"), ("\u202ea", "\\u202ea"),
     ("\u200b", "\\u200b"), ("é", "é"), (" the", " the"), ("<b>", "<b>")],
)  # fmt: skip
def test_visible(token: str, seen: str) -> None:
    assert visible(token) == seen


@settings(deadline=None)
@given(st.text(max_size=30))
def test_visible_text_has_nothing_invisible(token: str) -> None:
    assert visible(token).isprintable()


@given(st.integers(1, 300), st.integers(0, 299), st.sets(st.integers(0, 299), max_size=5), st.integers(0, 9))
def test_a_strip_accounts_for_every_token_up_to_the_query(
    n: int, query: int, keys: set[int], around: int
) -> None:
    query = query % n
    masses = {k % (query + 1): 0.5 for k in keys}
    pieces = strip([f"t{i}" for i in range(n)], query, masses, {}, around=around)
    shown = [p.position for p in pieces if not p.skipped]
    assert shown == sorted(set(shown)) and {query, *masses} <= set(shown)
    assert len(shown) + sum(p.skipped for p in pieces) == shown[-1] + 1
    assert {p.position for p in pieces if p.mass} == set(masses)


def test_a_strip_marks_query_future_and_the_innermost_span() -> None:
    pieces = strip(list("abcdefgh"), 5, {1: 0.6}, {"needle": (0, 4), "value": (1, 2)})
    assert [p.span for p in pieces[:3]] == ["needle", "value", "needle"]
    assert [p.text for p in pieces if p.query] == ["f"] and [p.text for p in pieces if p.future] == ["g", "h"]


def test_the_example_of_a_retrieval_head_is_the_row_that_looks_into_the_value(run: Path) -> None:
    prompts, rows = read_evidence(run / "evidence")
    found = examples(HeadMap.open(run), "retrieval", (2, 1), prompts, rows)
    assert len(found) == 1 and found[0].task == "needle"
    assert found[0].best_position == 9 and found[0].best_mass == pytest.approx(0.52)
    assert {p.position: p.mass for p in found[0].pieces if p.mass} == {
        9: pytest.approx(0.52),
        5: 0.25,
        0: 0.125,
    }


def test_active_dormant_shows_a_row_asleep_and_one_awake(run: Path) -> None:
    headmap = HeadMap.open(run)
    prompts, rows = read_evidence(run / "evidence")
    at = headmap.frame[(headmap.frame["layer"] == 3) & (headmap.frame["head"] == 2)].iloc[0]
    asleep = "prose" if at["sink_mass_prose"] > at["sink_mass_code"] else "code"
    found = examples(headmap, "active_dormant", (3, 2), prompts, rows)
    assert [e.task == asleep for e in found] == [True, False]


def test_a_role_nobody_knows_shows_its_heaviest_key(run: Path) -> None:
    prompts, rows = read_evidence(run / "evidence")
    assert examples(HeadMap.open(run), "made_up", (5, 0), prompts, rows)[0].best_position == 9


def test_examples_come_from_the_tasks_of_the_score(run: Path) -> None:
    prompts, rows = read_evidence(run / "evidence")
    other = [ShownPrompt(**(p.model_dump() | {"task": "x", "kind": "x"})) for p in prompts[1:]]
    found = examples(HeadMap.open(run), "sink", (1, 1), [*other, prompts[0]], rows)
    assert found[0].task == "needle"


def test_character_map_has_one_mark_per_head_whatever_the_width(headmap: HeadMap) -> None:
    letters = set(looks.letters(headmap.roles).values()) | {"·"}
    for width in (9, 80, 200):
        lines = tables.character_map(headmap, width).plain.splitlines()
        marks = [c for line in lines if not line.startswith("layer") for c in line[6:] if c in letters]
        assert len(marks) == len(headmap.frame)


def test_letters_are_unique() -> None:
    found = looks.letters(["sink", "streaming", "s", "sinks", "retrieval"])
    assert len(set(found.values())) == 5 and found["sink"] == "S"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.41234, "0.412"), (0.0, "0.000"), (math.nan, "–"), (1e-5, "<0.001"), (123.456, "123.5"),
     (2e6, "2.00e+06")],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert looks.number(value) == text


def test_an_unknown_error_is_not_made_up() -> None:
    assert looks.with_error(0.5, math.nan) == "0.500"
    assert looks.with_error(0.5, 0.01) == "0.500 ± 0.010"


def test_machine_values_are_json(headmap: HeadMap) -> None:
    rows = machine.records(headmap.frame)
    assert rows[0]["made_up"] is None and rows[0]["layer"] == 0 and rows[0]["is_sink"] in (True, False)
    assert rows[9]["sink"] == headmap.frame["sink"][9]
    assert '"a": null' in machine.as_json({"a": math.inf})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.2, "about 1 s left"), (75, "about 75 s left"), (600, "about 10 min left"),
     (9000, "about 2.5 h left")],
)  # fmt: skip
def test_time_left(seconds: float | None, text: str) -> None:
    assert left(Progress(1, 9, 0.1, seconds, None)) == text


EVIL = "a\x1b[31mred\x9b2J\x07\rb\u202ec[/red]"


def test_what_a_file_says_does_not_command_the_terminal(
    headmap: HeadMap, capsys: pytest.CaptureFixture[str]
) -> None:
    named = HeadMap(headmap.frame, headmap.meta.model_copy(update={"model": EVIL}))
    tables.print_map(terminal.out(), named, 3)
    said = capsys.readouterr().out
    assert "a[31mred2Jbc[/red]: 24 heads" in said and "\x1b" not in said and "\u202e" not in said
    assert terminal.sentence(HeadscopeError(f"No {EVIL}\nhere.")) == "No a[31mred2J bc[/red] here."
    terminal.say_json(machine.as_json({"model": EVIL}))
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x9b" not in said and json.loads(said) == {"model": EVIL}


@pytest.mark.parametrize("name", ["mod\u00e8le \U0001f600", "half \ud83d"])
def test_a_terminal_that_knows_few_letters_gets_their_numbers(
    headmap: HeadMap, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    terminal.prepare()
    named = HeadMap(headmap.frame, headmap.meta.model_copy(update={"model": name}))
    tables.print_map(terminal.out(), named, 3)
    terminal.say_json(machine.as_json({"model": name}))
    sys.stdout.flush()
    table, brace, said = written.getvalue().decode("ascii").rpartition("{")
    assert "24 heads" in table and json.loads(brace + said) == {"model": name}
