"""What streaming a KV group costs the answer: integrated gradients from full attention to streaming.

Every group's output is mixed, `alpha * full + (1 - alpha) * streaming`, as in DuoAttention (Xiao et al.
2024, arXiv 2410.10819), but nothing is trained: the gradient of the answer's log-probability with
respect to each alpha is averaged along the straight path from all 0 to all 1 (Sundararajan et al. 2017,
arXiv 1703.01365). The attributions of a prompt add up to what streaming everything costs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray

from headscope.heads.gates import frozen, gated
from headscope.heads.headmap import ColumnInfo, HeadMap
from headscope.heads.policy import Window
from headscope.heads.quality import answer
from headscope.heads.ranking import loss_column
from headscope.probes import (
    TASKS,
    Estimate,
    HeadscopeError,
    Model,
    Prompt,
    attach,
    over_prompts,
)

STEPS = 5
WINDOW = Window(sink=16, recent=496)  # at equal bytes better than 64 + 256 on smollm2, see the README
_UNSEEN = 2_000_003  # added to seeds: neither a scan's prompts nor those a policy is verified on
_TRIES = 3  # candidates per prompt wanted
_SOURCE = "integrated gradients (arXiv 1703.01365) along DuoAttention's mixture (arXiv 2410.10819)"


def attribute(
    model: Model,
    run: str | os.PathLike[str],
    window: Window = WINDOW,
    *,
    tasks: Sequence[str] = ("needle",),
    lengths: Sequence[int] = (1024, 2048),
    prompts: int = 8,
    steps: int = STEPS,
    seed: int = 0,
    haystack: str | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> HeadMap:
    """Measure what streaming costs every KV group and write it into a run's head map.

    Adds the column `streaming_loss_<sink>_<recent>`, the same for all heads of a group, by which
    `HeadMap.policy` then ranks. Costs `steps` forward and backward passes a prompt.

    Args:
        model: the model that was scanned.
        run: its run folder.
        window: what a streaming group will keep.
        tasks: tasks whose prompts have answers, prompts shared out evenly.
        lengths: of the prompts, in tokens; longer than the window, or there is nothing to lose.
        prompts: how many, all of which the model answers right.
        steps: points on the path of each prompt.
        seed: of the prompts.
        haystack: text to hide needles in, in place of the default one.
        progress: called with the prompts done and all of them.

    Returns:
        The map as it is now on disk.

    Raises:
        Refused: the run is of another model.
        HeadscopeError: too few prompts are answered right, or lengths the window covers.
    """
    folder = Path(run)
    HeadMap.open(folder).check(model)
    if min(lengths) <= window.keys:
        raise HeadscopeError(
            f"length is {min(lengths)} tokens, but sink + recent cover {window.keys}: nothing would be lost."
        )
    asked = _answered(model, tasks, lengths, prompts, seed, haystack)
    found = streaming_loss(model, asked, window, steps=steps, progress=lambda n: progress(n, len(asked)))
    value, se = (x.repeat(model.geometry.group_size, 1) for x in (found.value, found.se))
    info = ColumnInfo(
        about=f"nats of the answer's log-probability lost when the head's KV group keeps only its first "
        f"{window.sink} and last {window.recent} keys",
        low=None, high=None, tasks=tuple(tasks), prompts=len(asked), source=_SOURCE,
    )  # fmt: skip
    # Read again: something else may have added a column meanwhile.
    made = HeadMap.open(folder).with_score(loss_column(window), value, se, info)
    made.save(folder / "headmap.parquet" if folder.is_dir() else folder)
    return made


def _answered(
    model: Model, tasks: Sequence[str], lengths: Sequence[int], count: int, seed: int, haystack: str | None
) -> list[Prompt]:
    """Prompts the model answers right, of every task and length alike, one at most more than of another."""
    each = -(-count // (len(tasks) * len(lengths)))
    cells: list[list[Prompt]] = []
    for task in tasks:
        for length in lengths:
            made = TASKS[task].prompts(
                model.reader(TASKS[task]), lengths=[length], per_length=_TRIES * each, seed=seed + _UNSEEN,
                haystack=haystack,
            )  # fmt: skip
            Random(seed).shuffle(made)  # they come ordered by depth
            right = (p for p in made if p.answer and answer(model, None, p).right)
            cells.append([p for p, _ in zip(right, range(each), strict=False)])
    found = [p for turn in zip_longest(*cells) for p in turn if p]
    if len(found) < 2:
        raise HeadscopeError(
            f"{model.name!r} answers {len(found)} of the {', '.join(tasks)} prompts right, at least 2 are "
            "needed; try shorter lengths or another task."
        )
    return found[:count]


def streaming_loss(
    model: Model,
    prompts: Sequence[Prompt],
    window: Window,
    *,
    steps: int = STEPS,
    progress: Callable[[int], object] = lambda done: None,
) -> Estimate:
    """Nats of answer log-probability that each KV group loses when it streams.

    Args:
        model: whose groups.
        prompts: prompts with answers, best those that the model answers right.
        window: what a streaming group keeps.
        steps: points on the path, midpoint rule.
        progress: called after each prompt with how many are done.

    Returns:
        Mean over prompts and its standard error. [L, Hkv] each

    Raises:
        HeadscopeError: no prompt has an answer.
    """
    asked = [p for p in prompts if p.answer]
    if not asked:
        raise HeadscopeError("None of the prompts has an answer, so nothing can be lost.")
    found = []
    with frozen(model):
        for done, prompt in enumerate(asked, 1):
            slopes = [_slope(model, prompt, window, (step + 0.5) / steps) for step in range(steps)]
            found.append(np.mean(slopes, 0))
            progress(done)
    return over_prompts(found)


def _slope(model: Model, prompt: Prompt, window: Window, alpha: float) -> NDArray[np.float64]:
    """d log p(answer) / d alpha at one point of the path. [L, Hkv]"""
    g = model.geometry
    mixture = torch.full((g.layers, g.kv_heads), alpha, device=model.device, requires_grad=True)
    inputs = model.inputs([prompt])
    rows = torch.tensor(prompt.answer_rows, device=model.device)
    start, stop = prompt.answer or (1, 1)
    with torch.enable_grad(), attach(model, attend=gated(mixture, window.sink, window.recent)):
        logits = model.hf(**inputs, use_cache=False, logits_to_keep=rows).logits[0].float()
        gain = logits.log_softmax(-1).gather(-1, inputs["input_ids"][0, start:stop, None]).sum()
        (slope,) = torch.autograd.grad(gain, mixture, materialize_grads=True)
    return slope.double().cpu().numpy()
