"""Every task, on every kind of tokenizer: labels mean what they say, lengths hold, seeds decide."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_zoo import FAST, KINDS, PAIRS, Letters, bytes_digits, make, text_of, tokenizer, words
from transformers import PreTrainedTokenizerFast

from headscope.probes import TASKS, HeadscopeError, Model, Prompt
from headscope.probes.haystack import default_text
from headscope.probes.tasks.needle import WORDINGS
from headscope.probes.tokens import encode

ASKING = ["keyvalue", "needle", "passkey", "recital"]
PICTURED = ["recoloured", "scenes"]  # for vision-language models: test_picture_pairs, test_vision_columns
PLAIN = ["backcopy", "bigram", "code", "prose", "random", "repeat"]
# Tokens that a prompt may be short of its length; a key-value prompt lacks less than one line.
SHORT = {"keyvalue": 24, "needle": 12, "passkey": 12, "recital": 12, "repeat": 3}


def check_labels(kind: Any, prompt: Prompt) -> None:
    """What every prompt with an answer promises."""
    span = {name: text_of(kind, prompt.ids[slice(*s)]) for name, s in prompt.spans.items()}
    assert prompt.answer is not None
    assert prompt.answer[1] == len(prompt)
    assert prompt.source == tuple(range(*prompt.spans["value"]))
    assert [prompt.ids[i] for i in prompt.source] == list(prompt.ids[slice(*prompt.answer)])
    assert len(prompt.answer_rows) >= 2
    assert span["value"] in span["needle"]
    assert span["needle"] in span["haystack"]
    assert span["question"].endswith("?") or "json" in span["question"]
    assert prompt.spans["haystack"][1] <= prompt.spans["question"][0] + 1
    assert prompt.spans["question"][1] < prompt.answer[0]
    whole = text_of(kind, prompt.ids)
    assert whole.endswith(span["value"])
    for name in span:
        if name.startswith("distractor"):
            assert span[name] in span["haystack"]
            assert span[name] != span["value"]
    assert 0 <= prompt.meta["depth"] <= 1
    # A fact stands at a sentence end within 1,000 characters of its depth in the filler.
    facts = [name for name in span if name == "needle" or name.startswith("distractor")]
    hidden = sum(len(span[name]) for name in facts)
    filler = len(span["haystack"]) - hidden
    assert abs(prompt.meta["placed"] - prompt.meta["depth"]) * filler <= 1000


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("task", ASKING)
@settings(deadline=None, max_examples=4, suppress_health_check=list(HealthCheck))
@given(length=st.integers(500, 1100), seed=st.integers(0, 10**6))
def test_labels_hold_on_every_tokenizer(kind: str, task: str, length: int, seed: int) -> None:
    for prompt in make(task, kind, [length], 3, seed):
        check_labels(kind, prompt)
        assert 0 <= length - len(prompt) <= SHORT[task]
        assert prompt.task == prompt.meta["kind"] == task
        assert prompt.meta["length"] == length


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("task", PLAIN)
@settings(deadline=None, max_examples=3, suppress_health_check=list(HealthCheck))
@given(length=st.integers(17, 900), seed=st.integers(0, 10**6))
def test_plain_prompts_have_their_length(kind: str, task: str, length: int, seed: int) -> None:
    made = make(task, kind, [length, 40], 3, seed)
    assert [p.meta["length"] for p in made] == [length] * 3 + [40] * 3
    assert all(0 <= p.meta["length"] - len(p) <= SHORT.get(task, 0) for p in made)
    assert all(p.answer is None and not p.source for p in made)
    assert len({p.ids for p in made}) == (6 if length != 40 else 3)  # the same length, the same prompts
    assert {p.meta["kind"] for p in made} == {"repeated" if task == "repeat" else task}


@pytest.mark.parametrize("task", ASKING)
def test_a_slow_tokenizer_is_labelled_by_its_decoded_tokens(task: str) -> None:
    length = 7000 if task == "recital" else 1200  # ten keys of 32 words, spelled twice
    for prompt in make(task, "letters", [length], 2, haystack=default_text()[:4000]):
        check_labels("letters", prompt)


@pytest.mark.parametrize("kind", FAST)
def test_repeats_and_their_offsets(kind: str) -> None:
    for prompt in make("repeat", kind, [17, 250, 1001], 2):
        ids, period, n = prompt.ids, prompt.meta["period"], len(prompt)
        assert n == 1 + 4 * period
        assert prompt.offsets == {
            "echo": (period, 2 * period, 3 * period),
            "induction": (period - 1, 2 * period - 1, 3 * period - 1),
        }
        assert prompt.spans == {"repeats": (1 + period, n), "last": (1 + 3 * period, n)}
        for i in range(*prompt.spans["last"]):
            assert all(ids[i - d] == ids[i] for d in prompt.offsets["echo"])
            assert all(i + 1 == n or ids[i - d] == ids[i + 1] for d in prompt.offsets["induction"])
        for i in range(*prompt.spans["repeats"]):
            assert all(ids[i - d] == ids[i] for d in prompt.offsets["echo"] if i - d > 0)


@pytest.mark.parametrize("task", ["random", "repeat"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_random_tokens_are_ordinary_and_differ(kind: str, task: str) -> None:
    made = tokenizer(kind)
    (prompt,) = make(task, kind, [150], 1)
    drawn = prompt.ids[1 : 1 + prompt.meta.get("period", 149)]
    assert len(set(drawn)) == len(drawn)
    assert not set(drawn) & set(made.all_special_ids)
    for i in drawn:
        text = made.decode([i], clean_up_tokenization_spaces=False)
        assert text.strip()
        assert text.isprintable()
        assert list(made(text, add_special_tokens=False)["input_ids"]) == [i]


def test_the_first_token_is_the_tokenizers_own() -> None:
    (first,) = {p.ids[0] for p in make("repeat", "prefix_space") + make("random", "prefix_space")}
    assert first == tokenizer("prefix_space").bos_token_id
    no_bos = tokenizer("bytes_triples")
    assert no_bos.bos_token_id is None
    assert no_bos.decode([make("random", "bytes_triples")[0].ids[0]]) == "\n"
    assert make("prose", "prefix_space")[0].ids[0] == tokenizer("prefix_space").bos_token_id
    end = tokenizer("unigram").eos_token_id
    assert end not in make("prose", "unigram")[0].ids
    assert end not in make("needle", "unigram")[0].ids


def test_random_tokens_come_again_only_when_all_have_come() -> None:
    (prompt,) = make("random", "letters", [1000], 1)
    counts = sorted(prompt.ids.count(i) for i in set(prompt.ids[1:]))
    assert counts[-1] - counts[0] <= 1
    assert counts[0] > 1


@pytest.mark.parametrize("task", ASKING + PLAIN)
def test_seeds_decide_and_prompts_do_not_depend_on_each_other(task: str) -> None:
    again, fresh = make(task, "bytes_digits"), make(task, bytes_digits())
    assert [p.key() for p in again] == [p.key() for p in fresh]
    assert [p.key() for p in make(task, "bytes_digits", [400, 600])][6:] == [p.key() for p in again]
    assert not {p.key() for p in make(task, "bytes_digits", seed=1)} & {p.key() for p in again}


def test_depths_and_wordings_are_spread() -> None:
    made = make("needle", "bytes_digits", [800], 12)
    assert [p.meta["depth"] for p in made] == [round(i / 11, 4) for i in range(12)]
    assert sorted(p.meta["needle"] for p in made) == sorted([*WORDINGS] * 2)
    assert all(abs(p.meta["placed"] - p.meta["depth"]) < 0.1 for p in made)
    (one,) = make("needle", "bytes_digits", [800], 1)
    assert one.meta["depth"] == 0.5


def test_passkeys_are_asked_for_in_turn() -> None:
    made = make("passkey", "bytes_digits", [800], 8)
    assert [p.meta["asked"] for p in made] == [0, 1, 2, 3] * 2
    for prompt in made:
        others = [prompt.spans[f"distractor_{i}"] for i in range(3)]
        assert others == sorted(others)
        before = sum(s < prompt.spans["value"] for s in others)
        assert before == prompt.meta["asked"]


def test_pairs_are_asked_for_from_first_to_last() -> None:
    made = make("keyvalue", "bytes_digits", [800], 5)
    assert [p.meta["placed"] for p in made] == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.03)
    assert all(p.meta["pairs"] > 20 for p in made)
    assert len([n for n in made[0].spans if n.startswith("distractor")]) == 4


def test_windows_of_prose_and_code_differ() -> None:
    prose, code = make("prose", "bytes_digits"), make("code", "bytes_digits")
    assert len({p.meta["begin"] for p in prose}) == len({p.meta["begin"] for p in code}) == 6
    for prompt in code:
        text = tokenizer("bytes_digits").decode(list(prompt.ids))
        assert text.startswith(("def ", "class ", "async def "))
    assert text_of("bytes_digits", prose[0].ids)[:40] in "".join(default_text().casefold().split())


def test_a_haystack_of_ones_own() -> None:
    story = " ".join(f"On day {i} the ship sailed on." for i in range(400))
    for task in ("needle", "passkey", "prose"):
        for prompt in make(task, "bytes_digits", haystack=story):
            assert "shipsailedon" in text_of("bytes_digits", prompt.ids)
    assert make("code", "bytes_digits", haystack=story) == make("code", "bytes_digits")


def test_control_characters_do_not_move_labels() -> None:
    noise = "\x00\x07\ud800\u200d\u202e\x1b[31m<|end|>\r\n"
    story = " ".join(f"On day {i}{noise} the naïve ship 🚢 sailed on… «далеко». " for i in range(400))
    for kind in ("bytes_digits", "prefix_space"):
        for task in ("needle", "passkey"):
            for prompt in make(task, kind, haystack=story):
                check_labels(kind, prompt)


def test_a_haystack_without_spaces() -> None:
    for prompt in make("needle", "bytes_triples", [900], haystack="海上生明月，天涯共此时。" * 300):
        check_labels("bytes_triples", prompt)
        assert 900 - len(prompt) <= 12


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{{ m.role }}] {{ m.content | replace('\n', ' ') | trim }} {% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}",
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no') }}{% endif %}"
        "<|turn|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|turn|>{% endif %}",
        "{% for m in messages %}<|turn|>{% if m.role == 'assistant' %}<think>\n\n</think>{% endif %}"
        "{{ m.content }}<|end|>{% endfor %}",
    ],
    ids=["joins lines", "refuses an assistant's turn", "thinks"],
)
def test_chat_templates_that_rewrite(template: str) -> None:
    made = bytes_digits()
    made.chat_template = template
    for task in ASKING:
        for prompt in make(task, made):
            check_labels(made, prompt)
            assert "question:" not in text_of(made, prompt.ids)


def test_a_chat_template_that_changes_words_is_refused() -> None:
    made = bytes_digits()
    made.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(HeadscopeError, match=r"could be labelled .* is missing from the prompt\."):
        make("needle", made)
    made.chat_template = "{{ raise_exception('only tools') }}"
    with pytest.raises(HeadscopeError, match="chat template refuses a question: only tools"):
        make("needle", made)


def test_without_a_chat_template_there_is_a_plain_form() -> None:
    text = text_of("prefix_space", make("needle", "prefix_space")[0].ids)
    assert text.startswith("<s>")
    assert "question:" in text
    assert "answer:" in text


def test_unknown_words_are_an_error_not_a_wrong_label() -> None:
    with pytest.raises(HeadscopeError, match=r"could be labelled .* in 8 tries: The tokens"):
        make("passkey", words(digits=False))


class _Shifted(PreTrainedTokenizerFast):
    """Gives offsets that are wrong by a word or so."""

    def __call__(self, *args: Any, **more: Any) -> Any:
        out = super().__call__(*args, **more)
        if "offset_mapping" in out:
            out["offset_mapping"] = [(a + 5, b + 5) for a, b in out["offset_mapping"]]
        return out


def test_wrong_offsets_are_noticed_and_worked_out_anew() -> None:
    right = tokenizer("bytes_digits")
    made = _Shifted(
        tokenizer_object=right.backend_tokenizer, bos_token="<s>", chat_template=right.chat_template
    )
    for prompt in make("needle", made):
        check_labels(made, prompt)


def test_a_slow_tokenizer_that_loses_the_text_is_refused() -> None:
    with pytest.raises(HeadscopeError, match=r"Letters gives no character offsets .* use its fast version\."):
        make("needle", Letters(lossy=True), [1200], 1)


@pytest.mark.parametrize("kind", FAST)
def test_offsets_worked_out_from_tokens_agree_with_the_tokenizers(kind: str) -> None:
    text = default_text()[:3000]
    given_, found = (encode(tokenizer(kind), text, slowly=slowly) for slowly in (False, True))
    assert given_.ids == found.ids
    for begin in range(0, 2900, 97):
        word = text.find(" ", begin) + 1
        end = text.find(" ", word)
        assert given_.span(word, end) == found.span(word, end)


@pytest.mark.parametrize(
    ("task", "length", "message"),
    [
        ("needle", 20, r"A 'needle' prompt takes at least \d+ tokens .* a length of 20 is too small"),
        ("passkey", 60, r"A 'passkey' prompt takes at least \d+ tokens .* a length of 60 is too small"),
        ("keyvalue", 30, r"A 'keyvalue' prompt takes at least \d+ tokens .* a length of 30 is too small"),
        ("repeat", 16, r"A 'repeat' prompt takes at least 17 tokens, so a length of 16 is too small"),
        ("random", 1, r"A 'random' prompt takes at least 2 tokens"),
        ("prose", 0, r"lengths \[0\] and per_length 6 must be positive"),
        ("prose", 10**7, r"The haystack is too short: this prompt needs 10000000 tokens of it"),
    ],
)
def test_lengths_that_cannot_be(task: str, length: int, message: str) -> None:
    with pytest.raises(HeadscopeError, match=message):
        make(task, "bytes_digits", [length])


@pytest.mark.parametrize("haystack", ["", " \n\x00 ", "One sentence. And another."])
@pytest.mark.parametrize("task", ["needle", "passkey", "prose"])
def test_a_haystack_too_short(task: str, haystack: str) -> None:
    with pytest.raises(
        HeadscopeError, match=r"too short: this prompt needs \d+ tokens of it, and it has \d+\.$"
    ):
        make(task, "bytes_digits", haystack=haystack)


def test_a_haystack_just_long_enough() -> None:
    story = " ".join(f"On day {i} the ship sailed on." for i in range(60))
    made = tokenizer("bytes_digits")
    length = len(made(story)["input_ids"])
    (prompt,) = make("prose", made, [length], 1, haystack=story)
    assert len(prompt) == length
    with pytest.raises(HeadscopeError, match="too short"):
        make("prose", made, [length + 1], 1, haystack=story)


def test_an_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(HeadscopeError, match=r"There is no task 'needles'\. Did you mean 'needle'\?"):
        TASKS["needles"]
    assert TASKS.names() == sorted(ASKING + PLAIN + PAIRS + PICTURED)
    assert all(t.summary for t in TASKS)


def test_the_registry_is_found_whatever_was_imported_first() -> None:
    program = (
        "import headscope.probes.tasks.needle\n"
        "from headscope.probes import TASKS\n"
        "assert 'needle' in TASKS.names() and TASKS['needle'].name == 'needle'\n"
        "import sys; assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_recital_tells_every_key_again_in_another_order() -> None:
    """As many keys and words as fit the length, all of them in the text and after the question."""
    for length, keys in ((640, 5), (1400, 10)):
        for prompt in make("recital", "bytes_digits", [length], 3):
            told = text_of("bytes_digits", prompt.ids[prompt.spans["question"][1] :])
            names = ["value", *(f"distractor_{i}" for i in range(keys - 1))]
            values = [text_of("bytes_digits", prompt.ids[slice(*prompt.spans[n])]) for n in names]
            assert prompt.meta["keys"] == keys == len(set(values))
            assert all(told.count(value) == 1 for value in values)
            assert told.endswith(values[0])


@pytest.mark.model
@pytest.mark.parametrize("task", ASKING)
def test_the_default_models_tokenizer(task: str, smollm2: Model) -> None:
    made = smollm2.tokenizer
    for prompt in make(task, made, [512, 2048], 6):
        check_labels(made, prompt)
        assert len(prompt.answer_rows) >= 3
        assert prompt.meta["length"] - len(prompt) <= 12
        assert made.decode(list(prompt.ids)).startswith("<|im_start|>system")
