"""OPERA: exact penalties on attention made by hand, going back, and plain beam search without it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from PIL import Image
from vlm_zoo import tiny_vlm

from headscope.heads import Opera, opera
from headscope.heads.opera import _restart, columns, over_trust, search, stuck
from headscope.probes import HeadscopeError, Model, Picture, Prompt, load


def test_columns_are_the_products_of_the_paper() -> None:
    attention = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0)).tril()
    attention /= attention.sum(-1, keepdim=True)
    found = columns(attention, sigma=50.0)
    for b in range(2):
        for j in range(7):
            product = 1e-7
            for i in range(j, 7):
                product *= 50.0 * float(attention[b, i, j])
            assert float(found[b, j].exp()) == pytest.approx(product, rel=1e-4)


def test_a_column_that_all_later_words_look_back_at_is_found_and_charged() -> None:
    size, column = 8, 3
    attention = torch.full((size, size), 0.01).tril()
    attention[column:, column] = 0.5
    penalty, place = over_trust(attention, sigma=50.0)
    assert int(place) == column
    assert float(penalty) == pytest.approx(1e-7 * 25.0 ** (size - column), rel=1e-4)
    attention[5, column] = 0.0  # one word that does not look breaks the column
    assert int(over_trust(attention)[1]) != column and torch.isfinite(over_trust(attention)[0])


def test_long_columns_neither_overflow_nor_vanish() -> None:
    attention = torch.full((300, 300), 0.02).tril()
    assert float(columns(attention, sigma=50.0)[0]) == pytest.approx(-16.118, abs=1e-2)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([[12] * 4, [12] * 4], 12),
        ([[15] * 4, [12] * 4], 12),
        ([[12] * 4, [12] * 3], None),  # one text is not ruled for long enough
        ([[9] * 4, [9] * 4], None),  # too early to count
        ([[12, 13, 12, 12, 14, 12], [12] * 5], 12),
        ([[], [12] * 9], None),
    ],
)
def test_it_starts_again_behind_a_column_that_rules_every_text(
    places: list[list[int]], expected: int | None
) -> None:
    assert stuck(places, patience=3, early=10) == expected


def test_a_word_is_chosen_anew_so_many_times_and_then_the_one_before() -> None:
    returns = Counter({5: 3, 4: 2})
    assert _restart(5, 9, returns, most=4) == 5
    assert _restart(5, 9, returns, most=3) == 4
    assert _restart(5, 9, returns, most=2) is None
    assert _restart(9, 9, returns, most=2) == 8


@pytest.fixture(scope="module")
def llava() -> Model:
    model, tokenizer, eyes = tiny_vlm("llava")
    model.generation_config.eos_token_id = 1000  # never written
    return load(model, tokenizer=tokenizer, image_processor=eyes)


@pytest.fixture(scope="module")
def asked(llava: Model) -> Prompt:
    assert llava.vision is not None
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(1))
    return llava.vision.prompt("what is", [Picture.open(Image.fromarray(pixels.to(torch.uint8).numpy()))])


@pytest.mark.parametrize("beams", [1, 3])
def test_without_penalty_and_with_all_candidates_it_is_beam_search(
    llava: Model, asked: Prompt, beams: int
) -> None:
    whole = Opera(alpha=0.0, beams=beams, candidates=llava.geometry.vocabulary, patience=None, longest=5)
    write: Any = llava.hf.generate
    with torch.no_grad():
        expected = write(
            **llava.inputs([asked]), max_new_tokens=5, num_beams=beams, do_sample=False, pad_token_id=0
        )
    assert search(llava, asked, whole) == expected[0, len(asked) :].tolist()


def test_the_penalty_changes_what_is_written_and_a_token_once_banned_is_not_chosen(
    llava: Model, asked: Prompt
) -> None:
    plain = Opera(alpha=0.0, beams=2, candidates=3, patience=None, longest=12)
    charged = Opera(alpha=1e5, beams=2, candidates=3, early=2, patience=None, longest=12)
    assert search(llava, asked, plain) != search(llava, asked, charged)
    back = Opera(alpha=0.0, beams=2, candidates=3, early=0, patience=1, longest=12)
    found = search(llava, asked, back)
    assert found != search(llava, asked, plain) and len(found) == 12


def test_what_is_wrong_is_said(llava: Model, asked: Prompt) -> None:
    assert isinstance(opera(llava, asked, Opera(longest=2, beams=2)), str)
    with pytest.raises(HeadscopeError, match="at least one beam and one candidate, not 0 and 5"):
        opera(llava, asked, Opera(beams=0))
