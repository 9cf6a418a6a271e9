"""Do tasks reuse heads? What circuits share, what they lose with each other's heads, and a repair.

After Merullo et al. 2023 (arXiv 2310.08744), with controls: overlap against heads exchanged within
their layers, each circuit's removal tried on every task, and the repair aimed at random tokens too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headscope.heads import intervals
from headscope.heads.controls import random_heads
from headscope.heads.transfer import transfer
from headscope.probes import (
    AttentionCall,
    Circuit,
    HeadId,
    HeadscopeError,
    Pairs,
    Prompt,
    Trials,
    all_answer_logits,
    attach,
    faithfulness,
)

if TYPE_CHECKING:
    from headscope.probes import Model

_DRAWS = 3


def shared_heads(circuits: Sequence[Circuit], top: int, *, seed: int = 0) -> pd.DataFrame:
    """What every pair of circuits shares of its `top` largest heads.

    Args:
        circuits: of different tasks of one model, all heads scored.
        top: heads in a circuit.
        seed: of the permutations.

    Returns:
        The columns of `transfer`, and `iou` (overlap over union), `iou_chance` (the same for the overlap
        expected when heads are exchanged within their layers) and `containment` (shared over `top`).

    Raises:
        HeadscopeError: fewer than two tasks.
    """
    if len({c.task for c in circuits}) < 2 or len({c.task for c in circuits}) < len(circuits):
        raise HeadscopeError("Overlap takes circuits of at least two tasks, one of each.")
    shape = (circuits[0].geometry.layers, circuits[0].geometry.heads)
    found = transfer({c.task: c.heads()["score"].to_numpy().reshape(shape) for c in circuits}, top, seed=seed)
    found["iou"] = found["shared"] / (2 * top - found["shared"])
    found["iou_chance"] = found["expected"] / (2 * top - found["expected"])
    found["containment"] = found["shared"] / top
    return found


def cross_ablation(
    model: Model,
    circuits: Sequence[Circuit],
    tests: Mapping[str, Pairs],
    top: int,
    *,
    ablation: Literal["counterfactual", "mean", "zero"] = "mean",
    seed: int = 0,
) -> pd.DataFrame:
    """What is left of each task without the largest heads of each circuit, and without random ones.

    Returns:
        A row for each circuit and task: `circuit`, `task`, `left` and `left_se` (share of the task's
        log-odds that is left, of a ratio of means), `random` and `random_sd` (the same without as many
        random heads of the same layers, mean and standard deviation of 3 draws; NaN where a layer has
        fewer other heads than the circuit takes of it).
    """
    rows = []
    rng = np.random.default_rng(seed)
    for circuit in circuits:
        chosen = circuit.top(top)
        drawn = [random_heads(chosen, model.geometry.heads, (), rng) for _ in range(_DRAWS)]
        for task, pairs in tests.items():
            own, *others = (
                _left(model, circuit, heads, pairs, ablation) for heads in (chosen, *drawn) if heads
            )
            left = [x for x, _ in others] or [float("nan")] * _DRAWS
            rows.append(
                {"circuit": circuit.task, "task": task, "left": own[0], "left_se": own[1],
                 "random": float(np.mean(left)), "random_sd": float(np.std(left, ddof=1))}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _left(
    model: Model, circuit: Circuit, heads: Sequence[HeadId], pairs: Pairs, ablation: Any
) -> tuple[float, float]:
    """Share of the log-odds with all heads live but these, and its standard error."""
    names = {str(head) for head in heads}
    ranked = tuple(n.model_copy(update={"score": float(n.id not in names)}) for n in circuit.nodes)
    rest = circuit.model_copy(update={"nodes": ranked})
    total = model.geometry.layers * model.geometry.heads
    share = (total - len(names)) / total
    curve = faithfulness(model, rest, pairs.prompts, ablation=ablation, sizes=(share,))
    error = curve.kept_share_se[0]
    return curve.kept[0] / curve.whole, float("nan") if error is None else error


class _Aimed:
    """Lets some heads, in the row that answers, attend evenly to some keys and to nothing else."""

    def __init__(self, heads: Sequence[HeadId], prompts: Sequence[Prompt], targets: Sequence[Sequence[int]]):
        self.heads, self.prompts, self.targets = heads, prompts, targets

    def edit(self, call: AttentionCall) -> Tensor:
        here = [h.head for h in self.heads if h.layer == call.layer]
        if not here:
            return call.output
        output, size = call.output.clone(), call.q.shape[1] // call.k.shape[1]
        for b, (prompt, keys) in enumerate(zip(self.prompts, self.targets, strict=True)):
            for head in here:
                output[b, prompt.answer_rows[0], head] = call.v[b, head // size, list(keys)].mean(0)
        return output


@torch.no_grad()
def aimed(
    model: Model, prompts: Sequence[Prompt], heads: Sequence[HeadId], targets: Sequence[Sequence[int]]
) -> Trials:
    """What the model answers when these heads attend to given tokens in the row that answers.

    Args:
        model: the model.
        prompts: with contrasts.
        heads: whose attention to set.
        targets: for each prompt, the token indices to attend to.
    """
    found = Trials.empty(len(prompts))
    for i, (prompt, keys) in enumerate(zip(prompts, targets, strict=True)):
        with attach(model, _Aimed(heads, [prompt], [keys])):
            logits = all_answer_logits(model, [prompt])
        found.take([i], [prompt], logits)
    return found


def wrong_tokens(prompt: Prompt) -> list[int]:
    """Where the definite wrong answers of a prompt stand in it."""
    assert prompt.contrast is not None
    end = prompt.answer_rows[0] + 1
    return [i for i, token in enumerate(prompt.ids[:end]) if token in prompt.contrast.wrong]


def repair(
    model: Model, prompts: Sequence[Prompt], heads: Sequence[HeadId], *, most: int = 4, seed: int = 0
) -> pd.DataFrame:
    """Aim inhibition heads at the wrong answers and see whether the task is repaired.

    It needs the wrong answers as input, so that it is a test of what heads do and no way to answer
    better: heads that copy with a minus sign are pointed at what must not be copied. The first half of
    the prompts chooses the heads, one by one, by the mean probability of the right answer.

    Args:
        model: the model.
        prompts: of the task to repair, right and wrong ones, at least four.
        heads: candidates, such as those that two circuits share.
        most: how many to aim at once.
        seed: of the controls.

    Returns:
        Rows `untouched`, `aimed at the wrong answers`, `aimed at random tokens` and `random heads aimed`:
        `right` with `low`, `high` (95%), `p_right`, `prompts`, and the `heads` chosen. Randoms are the
        mean of 3 draws.

    Raises:
        HeadscopeError: too few prompts, or no wrong answer stands in one.
    """
    if len(prompts) < 4 or not all(wrong_tokens(p) for p in prompts):
        raise HeadscopeError("A repair takes at least four prompts in which the wrong answers stand.")
    learn, test = prompts[: len(prompts) // 2], prompts[len(prompts) // 2 :]
    chosen, best = list[HeadId](), aimed(model, learn, [], [[0]] * len(learn)).p_right.mean()
    for _ in range(min(most, len(heads))):
        wrong = [wrong_tokens(p) for p in learn]
        tried = {h: aimed(model, learn, [*chosen, h], wrong).p_right.mean() for h in heads if h not in chosen}
        first = max(tried, key=lambda h: tried[h])
        if tried[first] <= best:
            break
        chosen, best = [*chosen, first], tried[first]
    rng, wrong = np.random.default_rng(seed), [wrong_tokens(p) for p in test]
    rows = [
        _told("untouched", [aimed(model, test, [], wrong)]),
        _told("aimed at the wrong answers", [aimed(model, test, chosen, wrong)]),
        _told(
            "aimed at random tokens",
            [aimed(model, test, chosen, _elsewhere(test, rng)) for _ in range(_DRAWS)],
        ),
    ]
    drawn = [random_heads(chosen, model.geometry.heads, heads, rng) for _ in range(_DRAWS)]
    rows.append(_told("random heads aimed", [aimed(model, test, d, wrong) for d in drawn if d]))
    return pd.DataFrame(rows).assign(heads=" ".join(map(str, chosen)))


def _elsewhere(prompts: Sequence[Prompt], rng: np.random.Generator) -> list[list[int]]:
    """As many other tokens of each prompt."""
    found = []
    for prompt in prompts:
        wrong = wrong_tokens(prompt)
        free = [i for i in range(1, prompt.answer_rows[0] + 1) if i not in wrong]
        found.append(rng.choice(free, min(len(wrong), len(free)), replace=False).tolist())
    return found


def _told(what: str, trials: Sequence[Trials]) -> dict[str, Any]:
    if not trials:
        return {"what": what, "right": float("nan"), "prompts": 0}
    right = np.stack([t.right for t in trials])
    low, high = intervals.share(right[0]) if len(trials) == 1 else intervals.mean(right.mean(0), 0)
    return {
        "what": what, "right": float(right.mean()), "low": low, "high": high,
        "p_right": float(np.mean([t.p_right.mean() for t in trials])), "prompts": right.shape[1],
    }  # fmt: skip
