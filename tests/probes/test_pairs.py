"""Tasks of clean and counterfactual prompts: aligned token by token, answers told apart."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from tokenizer_zoo import FAST, KNOWLEDGE, PAIRS, make, text_of, tokenizer

from headscope.probes import Contrast, HeadscopeError, Model, Prompt, trials
from headscope.probes.tasks._facts import RELATIONS

LONG = 600  # more tokens than any of these prompts takes in any tokenizer


def counterfactual(prompt: Prompt) -> Contrast:
    assert prompt.contrast is not None
    return prompt.contrast


CASES = [(kind, task) for kind in FAST for task in PAIRS if kind != "words" or task not in KNOWLEDGE]


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_pairs_are_aligned_on_every_tokenizer(kind: str, task: str) -> None:
    for prompt in make(task, kind, [LONG], 4):
        contrast, answer = counterfactual(prompt), prompt.answer
        assert answer is not None
        assert len(prompt) <= LONG
        assert len(contrast.ids) == answer[0]
        assert contrast.ids != prompt.ids[: answer[0]]
        assert prompt.ids[answer[0]] in contrast.right
        assert not set(contrast.right) & set(contrast.wrong)
        assert text_of(kind, prompt.ids).endswith(text_of(kind, prompt.ids[slice(*answer)]))
        changed = {i for i in range(answer[0]) if contrast.ids[i] != prompt.ids[i]}
        named = {i for span in prompt.spans.values() for i in range(*span)}
        assert changed <= named


@pytest.mark.parametrize("task", KNOWLEDGE)
def test_a_tokenizer_that_lacks_the_words_is_refused(task: str) -> None:
    with pytest.raises(
        HeadscopeError, match=rf"No '{task}' prompt could be labelled in 512 tries: .* not know"
    ):
        make(task, "words", [LONG], 8)


@pytest.mark.parametrize("task", PAIRS)
def test_the_seed_decides(task: str) -> None:
    first, again, other = (make(task, "bytes_digits", [LONG], 6, seed) for seed in (3, 3, 4))
    assert first == again
    assert [p.ids for p in first] != [p.ids for p in other]
    assert len({p.ids for p in first}) == 6


def test_a_length_too_small_is_said() -> None:
    with pytest.raises(HeadscopeError, match=r"An? 'ioi' prompt takes \d+ tokens .* length of 5 is too"):
        make("ioi", "bytes_digits", [5])


def words(kind: Any, prompt: Prompt, name: str) -> str:
    return text_of(kind, prompt.ids[slice(*prompt.spans[name])])


def test_the_receiver_is_the_one_who_does_not_give() -> None:
    for prompt in make("ioi", "bytes_digits", [64], 8):
        io, s1, s2 = (words("bytes_digits", prompt, name) for name in ("io", "s1", "s2"))
        assert s1 == s2 != io
        assert prompt.meta["right"].casefold() == io
        assert prompt.meta["wrong"].casefold() == s1


def test_later_years_are_right() -> None:
    kind = tokenizer("bytes_digits")
    for prompt in make("greater_than", kind, [64], 8):
        right, wrong = ([int(kind.decode([i])) for i in ids] for ids in
                        (counterfactual(prompt).right, counterfactual(prompt).wrong))  # fmt: skip
        assert min(right) == prompt.meta["start"] // 10 + 1
        assert max(wrong) == prompt.meta["start"] // 10


def test_sums_are_sums() -> None:
    for prompt in make("arithmetic", "bytes_digits", [64], 12):
        text = text_of("bytes_digits", prompt.ids)
        for a, operator, b, result in re.findall(r"(\d\d)([+-])(\d\d)=(\d\d)", text):
            assert int(a) + (int(b) if operator == "+" else -int(b)) == int(result)
        assert len(re.findall(r"=(\d\d)", text)) == 3


@pytest.mark.parametrize("task", ["coloured_objects", "delimiters", "choice"])
def test_what_is_asked_for_stands_in_the_text(task: str) -> None:
    pairs = {"coloured_objects": ("o", "c", 3), "delimiters": ("k", "v", 6), "choice": ("p", "c", 3)}
    key, value, count = pairs[task]
    for prompt in make(task, "bytes_digits", [LONG], 6):
        span = {name: words("bytes_digits", prompt, name) for name in prompt.spans}
        (at,) = [i for i in range(count) if span[f"{key}{i}"] == span["asked"]]
        assert at == prompt.meta["which"]
        answer = span[f"{value}{at}"]
        if task == "choice":
            answer = "abc"[[span[f"a{i}"] for i in range(3)].index(answer)]
        assert answer == prompt.meta["right"].casefold()


def test_the_three_knowledge_tasks_are_about_the_same_facts() -> None:
    made = {task: make(task, "bytes_digits", [LONG], 16) for task in KNOWLEDGE}
    for agreement, closed, conflict in zip(*(made[task] for task in KNOWLEDGE), strict=True):
        assert agreement.meta["relation"] == closed.meta["relation"] == conflict.meta["relation"]
        assert agreement.meta["format"] == closed.meta["format"] == conflict.meta["format"]
        subject = words("bytes_digits", conflict, "subject")
        assert words("bytes_digits", closed, "subject") == subject
        assert words("bytes_digits", conflict, "topic") == subject
        assert words("bytes_digits", agreement, "stated") == conflict.meta["right"].casefold()
        assert words("bytes_digits", conflict, "stated") == conflict.meta["wrong"].casefold()
        assert "stated" not in closed.spans
        facts = RELATIONS[conflict.meta["relation"]].facts
        assert conflict.meta["right"] in facts.values()
        assert conflict.meta["wrong"] in facts.values()
    assert {p.meta["format"] for p in made["conflict"]} == {"chat", "list", "note", "passage"}


def test_broken_pairs_are_refused() -> None:
    prompt = make("ioi", "bytes_digits", [64], 1)[0]
    contrast = counterfactual(prompt)
    with pytest.raises(HeadscopeError, match=r"counterfactual of a 'ioi' prompt has \d+ tokens before"):
        replace(prompt, contrast=replace(contrast, ids=contrast.ids[1:]))
    with pytest.raises(HeadscopeError, match="begin with the same token"):
        replace(prompt, contrast=replace(contrast, wrong=contrast.right))


def test_a_pair_is_part_of_the_key() -> None:
    prompt = make("ioi", "bytes_digits", [64], 1)[0]
    assert replace(prompt, contrast=None).key() != prompt.key()


@pytest.mark.model
def test_the_default_model_identifies_indirect_objects(smollm2: Model) -> None:
    prompts = make("ioi", smollm2.tokenizer, [64], 12)
    found = trials(smollm2, prompts)
    assert found.right.mean() >= 0.8
    assert (found.p_right > found.p_wrong).mean() >= 0.9
    single = trials(smollm2, prompts[3:4])
    assert single.token[0] == found.token[3]
    assert single.p_right[0] == pytest.approx(found.p_right[3], rel=1e-4)
