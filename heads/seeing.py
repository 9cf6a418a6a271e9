"""What a vision-language model says of pictures whose truth is known, under interventions.

Captions are judged as by CHAIR (Rohrbach et al. 2018): of all kinds of things named, the share that
is absent or has another colour (`hallucination`), the share of captions with any (`captions`), and
beside them, since saying less is no cure, `recall` and length in `words`. Questions are answered by
one word each; those with yes and no for an answer are POPE's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from headscope.heads.intervals import LEVEL, share
from headscope.heads.opera import Opera, opera
from headscope.probes import (
    DESCRIBE,
    POPE,
    QUESTION_KINDS,
    Gallery,
    Model,
    Prompt,
    Refused,
    Spec,
    Verdict,
    applied,
    gallery,
)

Writer = Callable[[Model, Sequence[Prompt]], list[str]]
"""Anything that writes a text for each of several prompts of one length."""

_LONGEST, _BATCH, _RESAMPLES = 48, 64, 2000
_COUNTS = ("mentions", "wrong", "absent", "habit", "any", "found", "kinds", "words", "one")
# Every rate is a ratio of sums over captions.
_RATES = {
    "hallucination": ("wrong", "mentions"), "absent": ("absent", "mentions"), "habit": ("habit", "mentions"),
    "captions": ("any", "one"), "recall": ("found", "kinds"), "words": ("words", "one"),
}  # fmt: skip


def under(*specs: Spec) -> Writer:
    """Greedy decoding under interventions."""

    @torch.no_grad()
    def write(model: Model, prompts: Sequence[Prompt]) -> list[str]:
        inputs, tokenizer = model.inputs(prompts), model.tokenizer
        assert tokenizer is not None
        length = inputs["input_ids"].shape[1]
        generate: Any = model.hf.generate
        with applied(model, *specs, prompt=length) if specs else nullcontext():
            out = generate(
                **inputs, attention_mask=torch.ones_like(inputs["input_ids"]), max_new_tokens=_LONGEST,
                do_sample=False, pad_token_id=tokenizer.pad_token_id or 0,
            )  # fmt: skip
        return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in out[:, length:]]

    return write


def captions(
    model: Model,
    arms: Mapping[str, Sequence[Writer]],
    galleries: Sequence[Gallery],
    seed: int = 0,
    done: Callable[[int], object] = lambda count: None,
) -> pd.DataFrame:
    """Captions of galleries of one world, one way of writing beside the other.

    Args:
        model: a model that knows the scenes.
        arms: ways of writing, the reference first; several writers of an arm are averaged over.
        galleries: what to describe, of different seeds.
        seed: of the bootstrap.
        done: called with the number of captions written after every batch.

    Returns:
        One row per arm. The rates `hallucination`, `absent`, `habit` (its part that the habit would
        have), `captions`, `recall` and `words`, each with `_low`, `_high`: the 95% bootstrap interval
        over pictures; and for each `…_change` against the first arm (for `hallucination` and `words`
        relative, else the difference), paired, with its interval. `by_seed`: hallucination of each
        gallery.

    Raises:
        Refused: see `check_knows`.
    """
    check_knows(model)
    counts, written = {}, 0
    for name, writers in arms.items():
        each = []
        for writer in writers:
            rows = []
            for shown in galleries:
                said = []
                for some in _batches(_asked(model, shown)):
                    said += writer(model, some)
                    done(written := written + len(some))
                rows.append(_counted(shown.judge(said)))
            each.append(np.stack(rows))
        counts[name] = np.stack(each)
    base = next(iter(counts.values()))
    return pd.DataFrame([{"arm": name} | _row(found, base, seed) for name, found in counts.items()])


def check_knows(model: Model) -> None:
    """Refuse models that were not trained to describe the scenes.

    Raises:
        Refused: a model of text alone, or one whose tokenizer lacks the words.
    """
    if model.vision is None:
        raise Refused(f"{model.name!r} reads text alone; what it sees cannot be evaluated.")
    tokenizer: Any = model.tokenizer
    ids = [] if tokenizer is None else tokenizer(f"{DESCRIBE} cyan diamond")["input_ids"]
    if len(ids) != 5 or tokenizer.unk_token_id in ids:
        raise Refused(
            f"{model.name!r} does not know the scenes of shapes and how they are described; only models "
            "trained on them, such as 'shapes', can be evaluated there."
        )


def _asked(model: Model, shown: Gallery) -> list[Prompt]:
    assert model.vision is not None
    return [model.vision.prompt(DESCRIBE, [p], task="caption") for p in shown.pictures]


def _batches(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    for i in range(0, len(prompts), _BATCH):
        yield prompts[i : i + _BATCH]


def _counted(verdicts: Sequence[Verdict]) -> NDArray[np.float64]:
    """What the rates are made of. [pictures, counts]"""
    return np.array([
        (v.mentions, v.absent + v.miscoloured, v.absent, v.habit, v.absent + v.miscoloured > 0, v.found,
         v.kinds, v.words, 1) for v in verdicts
    ], np.float64)  # fmt: skip


def _rates(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Every rate from sums of counts. [..., counts] -> [...]"""
    at = {name: i for i, name in enumerate(_COUNTS)}
    return {r: sums[..., at[a]] / np.maximum(sums[..., at[b]], 1e-9) for r, (a, b) in _RATES.items()}


def _row(found: NDArray[np.float64], base: NDArray[np.float64], seed: int) -> dict[str, Any]:
    """One arm. [writers, seeds, pictures, counts] each"""
    mine, its = (a.mean(0).reshape(-1, a.shape[-1]) for a in (found, base))
    draws = np.random.default_rng(seed).integers(len(mine), size=(_RESAMPLES, len(mine)))
    rates, again = _rates(mine.sum(0)), _rates(mine[draws].sum(1))
    other, other_again = _rates(its.sum(0)), _rates(its[draws].sum(1))
    row: dict[str, Any] = {}
    for name in _RATES:
        relative = name in ("hallucination", "words")
        change, changes = (
            _over(a, b) - 1 if relative else a - b
            for a, b in ((rates[name], other[name]), (again[name], other_again[name]))
        )
        for label, value, scatter in ((name, rates[name], again[name]), (f"{name}_change", change, changes)):
            low, high = np.nanquantile(scatter, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            row |= {label: float(value), f"{label}_low": float(low), f"{label}_high": float(high)}
    by_seed = _rates(found.mean(0).sum(1))["hallucination"]
    return row | {"by_seed": [round(float(v), 4) for v in by_seed]}


def _over(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """a / b; 1 where both are 0, NaN where only b is."""
    return np.divide(a, b, out=np.where(a == b, 1.0, np.nan), where=b > 0)


def answered(
    model: Model,
    arms: Mapping[str, Sequence[Sequence[Spec]]],
    galleries: Sequence[Gallery],
    kinds: Sequence[str] = QUESTION_KINDS,
) -> pd.DataFrame:
    """Questions about galleries, under interventions.

    Args:
        model, galleries: as for `captions`.
        arms: sets of specs by name; the answers under several of an arm are put together.
        kinds: of questions; see `Gallery.questions`.

    Returns:
        One row per arm and kind: `accuracy` with its exact 95% interval (none over several sets of
        specs, which share their questions), `questions` answered; for yes/no questions also
        `precision`, `recall` and `f1` of yes, and `yes_rate`.
    """
    check_knows(model)
    rows = []
    for name, variants in arms.items():
        for kind in kinds:
            pairs = [pair for specs in variants for shown in galleries
                     for pair in _answers(model, shown, kind, specs)]  # fmt: skip
            rows.append({"arm": name, "kind": kind} | _graded(pairs, len(variants), kind in POPE))
    return pd.DataFrame(rows)


@torch.no_grad()
def _answers(model: Model, shown: Gallery, kind: str, specs: Sequence[Spec]) -> list[tuple[str, str]]:
    """The right answer and the model's, for every question."""
    assert model.vision is not None and model.tokenizer is not None
    questions, found = shown.questions(kind), []
    vision, tokenizer = model.vision, model.tokenizer
    prompts = [vision.prompt(q.text, [shown.pictures[q.picture]], task="question") for q in questions]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), _BATCH):
        index = order[start : start + _BATCH]
        lengths = [len(prompts[i]) for i in index]
        with applied(model, *specs, prompt=lengths) if specs else nullcontext():
            logits = model.hf(**model.inputs([prompts[i] for i in index]), use_cache=False).logits
        said = logits[torch.arange(len(index)), torch.tensor(lengths) - 1].argmax(-1).tolist()
        found += [(questions[i].answer, str(tokenizer.decode([t]))) for i, t in zip(index, said, strict=True)]
    return found


def _graded(pairs: Sequence[tuple[str, str]], draws: int, yes: bool) -> dict[str, float]:
    right = [answer == said for answer, said in pairs]
    low, high = share(right) if draws == 1 else (float("nan"),) * 2
    row = {"accuracy": float(np.mean(right)), "accuracy_low": low, "accuracy_high": high}
    if yes:
        said = sum(s == "yes" for _, s in pairs)
        true = sum(a == s == "yes" for a, s in pairs)
        asked = sum(a == "yes" for a, _ in pairs)
        precision, recall = true / max(said, 1), true / max(asked, 1)
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        row |= {"precision": precision, "recall": recall, "f1": f1, "yes_rate": said / len(pairs)}
    return row | {"questions": float(len(pairs))}


def galleries_of(world: str, scenes: int, seeds: Sequence[int]) -> list[Gallery]:
    """Galleries of one world, one for each seed."""
    return [gallery(world, scenes, seed) for seed in seeds]


def searching(alpha: float = 0.0) -> Writer:
    """Beam search, under OPERA's penalty unless its alpha is 0."""
    settings = Opera(alpha=alpha) if alpha else Opera(alpha=0.0, patience=None)
    return lambda model, prompts: [opera(model, prompt, settings) for prompt in prompts]
