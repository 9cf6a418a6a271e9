"""The backcopy task on any tokenizer, and the world of the model that was trained on it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tokenizer_zoo import FAST, make, tokenizer

from headscope.probes import HeadscopeError, UnknownName, attach, checkpoints, load
from headscope.probes.tasks.backcopy import Language
from headscope.probes.toys.bigram_backcopy import (
    BOS,
    LENGTH,
    relu_weights,
    softmax_weights,
    tokenizer_of,
    weighted,
    world,
)


@pytest.mark.parametrize("kind", FAST)
def test_after_a_trigger_comes_the_token_before_it(kind: str) -> None:
    language = Language.of(tokenizer(kind))
    counts = Counter(language.ids)
    rest = max(n for i, n in counts.items() if i not in language.trigger_ids)
    assert len(language.trigger_ids) == 3 and min(counts[i] for i in language.trigger_ids) >= rest
    pairs = set(zip(language.ids, language.ids[1:] + language.ids[:1], strict=True))
    for prompt in make("backcopy", kind, [60, 200], 2):
        text = prompt.ids[1:]
        assert text[0] not in language.trigger_ids
        for before, now, after in zip(text, text[1:], text[2:], strict=False):
            assert after == before if now in language.trigger_ids else (now, after) in pairs
    for prompt in make("bigram", kind, [200], 2):
        assert not language.trigger_ids & set(prompt.ids[1:])


def test_a_text_of_a_few_tokens_is_no_language() -> None:
    with pytest.raises(HeadscopeError, match="The text has 2 distinct tokens, but bigram text needs 8"):
        Language.of(tokenizer_of(), "ababab" * 9)


def test_the_worlds_sequences_have_its_statistics() -> None:
    here = world()
    ids = here.sequences(400, torch.Generator().manual_seed(0))
    assert ids.shape == (400, LENGTH) and (ids[:, 0] == BOS).all() and not here.trigger[ids[:, 1]].any()
    called = here.trigger[ids[:, 2:-1]]
    assert (ids[:, 3:] == ids[:, 1:-2])[called].all()
    # The mean log-probability of what follows is minus the entropy, give or take its sampling.
    now, after = ids[:, 2:-1][~called], ids[:, 3:][~called]
    surprise = -here.bigram[now, after].log()
    error = (surprise - here.entropy[now]).std() / len(now) ** 0.5
    assert abs((surprise - here.entropy[now]).mean()) < 4 * error
    assert here.bigram.sum(-1).allclose(torch.ones(len(here.trigger)).double())


def test_the_tokenizer_knows_letters_and_blanks() -> None:
    made = tokenizer_of()
    assert made.decode(made("The Cat, (1) é\nsat.")["input_ids"]) == "<s>the cat  \nsat"


def test_explicit_weights_are_the_models_attention() -> None:
    model = load("bigram-backcopy@400")
    ids = world().sequences(3, torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model.hf(ids).logits
        with attach(model, attend=weighted(softmax_weights)):
            assert torch.allclose(model.hf(ids).logits, plain, atol=1e-4)
        with attach(model, attend=weighted(relu_weights)):
            assert not torch.allclose(model.hf(ids).logits, plain, atol=1e-1)


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = checkpoints(["bigram-backcopy"])
    assert [c.step for c in found] == [0, 50, 100, 200, 400, 800, 1600, 3200, 8000]
    assert found[-1].source == "bigram-backcopy@8000"
    assert load(found[-1].source).fingerprint == load("bigram-backcopy").fingerprint
    for name in ("run9-step1000", "run9-step20"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    assert [c.step for c in checkpoints([str(tmp_path)])] == [20, 1000]
    assert [c.step for c in checkpoints(["a/step-7", "b/step-3"])] == [3, 7]
    with pytest.raises(HeadscopeError, match="no number in its name"):
        checkpoints(["one", "two"])
    with pytest.raises(HeadscopeError, match="are checkpoints of step 3"):
        checkpoints(["a3", "b3"])
    with pytest.raises(UnknownName, match="bigram-backcopy"):
        checkpoints(["bigram-backcopi"])
    with pytest.raises(UnknownName, match="bigram-backcopy@8000"):
        load("bigram-backcopy@80000")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeadscopeError, match="holds no checkpoints"):
        checkpoints([str(tmp_path / "empty")])
