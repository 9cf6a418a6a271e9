"""Measuring a policy: what it still gets right, what it holds in memory, how long it takes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from headscope.heads.certificate import Certificate, Cost, TaskQuality, TextQuality
from headscope.heads.policy import Policy
from headscope.heads.quality import Answer, answer, mean, paired, share, text_loss
from headscope.heads.run import utc_now, versions
from headscope.heads.serving import kv_bytes, serving
from headscope.probes import TASKS, HeadscopeError, Model, Prompt

UNSEEN = 3_000_017  # added to seeds: no prompt on which a policy was chosen comes up again


@dataclass(frozen=True)
class Check:
    """What `verify` measures.

    Attributes:
        tasks: tasks with answers.
        lengths: prompt lengths in tokens.
        per_length: prompts for each task and length, spread over depths.
        texts: windows of plain text for each length; 0 leaves language modelling out.
        costs: lengths at which memory and time are measured; none leaves them out.
        repeats: timed prefills of each kind.
        decode: tokens timed after each of them.
        seed: of prompts, windows and rows.
    """

    tasks: tuple[str, ...] = ("needle", "passkey", "keyvalue")
    lengths: tuple[int, ...] = (1024, 2048, 4096)
    per_length: int = 10
    texts: int = 4
    costs: tuple[int, ...] = (4096,)
    repeats: int = 3
    decode: int = 16
    seed: int = 0


def verify(
    model: Model,
    policy: Policy,
    check: Check | None = None,
    *,
    haystack: str | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Policy:
    """Measure a policy against full attention on the same prompts.

    Args:
        model: the model the policy was made for.
        policy: the policy.
        check: what to measure.
        haystack: text to hide needles in, in place of the default one.
        progress: called with the steps done and all of them.

    Returns:
        The policy with its certificate.

    Raises:
        HeadscopeError: the policy is for another model, or a length the model lacks.
    """
    check = check or Check()
    policy.check(model)
    limit = model.geometry.context
    longest = max((*check.lengths, *(n + check.decode for n in check.costs)), default=0)
    if limit and longest > limit:
        raise HeadscopeError(
            f"A length of {longest} tokens is asked, but {model.name!r} takes at most {limit}."
        )
    asked = {t: _prompts(model, t, check, check.per_length, haystack) for t in check.tasks}
    windows = _prompts(model, "prose", check, check.texts, haystack) if check.texts else []
    total = sum(map(len, asked.values())) + len(windows) + len(check.costs) * check.repeats
    steps = iter(range(1, total + 1))

    def tick() -> None:
        progress(next(steps), total)

    tasks: list[TaskQuality] = []
    for task, prompts in asked.items():
        pairs = []
        for prompt in prompts:
            pairs.append((answer(model, None, prompt), answer(model, policy, prompt)))
            tick()
        tasks += _qualities(task, prompts, pairs)
    text = [q for n in check.lengths if (q := _text(model, policy, windows, n, check.seed, tick))]
    cost = [_cost(model, policy, n, check, tick) for n in check.costs]
    certificate = Certificate(
        made=utc_now(), device=_device(model),
        dtype=str(model.hf.dtype).removeprefix("torch."), versions=versions(), seed=check.seed,
        tasks=tuple(tasks), text=tuple(text), cost=tuple(cost),
    )  # fmt: skip
    return policy.model_copy(update={"certificate": certificate})


def _prompts(model: Model, task: str, check: Check, count: int, haystack: str | None) -> list[Prompt]:
    return TASKS[task].prompts(
        model.reader(TASKS[task]), lengths=check.lengths, per_length=count, seed=check.seed + UNSEEN,
        haystack=haystack,
    )  # fmt: skip


def _qualities(
    task: str, prompts: Sequence[Prompt], pairs: Sequence[tuple[Answer, Answer]]
) -> list[TaskQuality]:
    """Over everything, then per length, then per length and quarter of the text."""
    cells: dict[tuple[int | None, float | None], list[tuple[Answer, Answer]]] = {(None, None): []}
    for prompt, pair in zip(prompts, pairs, strict=True):
        at, depth = int(prompt.meta["length"]), _quarter(prompt.meta.get("depth"))
        for cell in dict.fromkeys([(None, None), (at, None), (at, depth)]):
            cells.setdefault(cell, []).append(pair)
    found = []
    for (length, depth), answers in sorted(cells.items(), key=_overall_first):
        full, cut = ([x.right for x in side] for side in zip(*answers, strict=True))
        kept = [b for a, b in zip(full, cut, strict=True) if a]
        found.append(
            TaskQuality(
                task=task, length=length, depth=depth, full=share(full), policy=share(cut),
                kept=share(kept) if kept else None, difference=paired(full, cut),
            )
        )  # fmt: skip
    return found


def _quarter(depth: float | None) -> float | None:
    """Where its quarter of the text begins; every prompt has a depth of its own."""
    return None if depth is None else min(int(4 * depth), 3) / 4


def _overall_first(cell: tuple[tuple[int | None, float | None], object]) -> tuple[int, float]:
    length, depth = cell[0]
    return length or 0, -1 if depth is None else depth


def _text(
    model: Model, policy: Policy, windows: Sequence[Prompt], length: int, seed: int, tick: Callable[[], None]
) -> TextQuality | None:
    found = []
    for window in windows:
        if window.meta["length"] == length:
            found.append(text_loss(model, [policy], window, seed)[0])
            tick()
    if not found:
        return None
    return TextQuality(
        length=length, kl=mean(x.kl for x in found), loss_full=mean(x.full for x in found),
        loss_policy=mean(x.policy for x in found), difference=mean(x.policy - x.full for x in found),
    )  # fmt: skip


@torch.no_grad()
def _cost(model: Model, policy: Policy, length: int, check: Check, tick: Callable[[], None]) -> Cost:
    """Full attention and the policy take turns, so that a change of clocks meets both."""
    ids = torch.arange(length, device=model.device)[None] % (model.geometry.vocabulary - 1) + 1
    seen: dict[str, list[tuple[float, float, int]]] = {"full": [], "policy": []}
    for turn in range(check.repeats + 1):
        for name, chosen in (("full", None), ("policy", policy)):
            seen[name].append(_timed(model, chosen, ids, check.decode))
        if turn:  # the first is a warm-up
            tick()
    prefill, decode = ({n: mean(t[i] for t in times[1:]) for n, times in seen.items()} for i in (0, 1))
    return Cost(
        length=length, kv_bytes_full=seen["full"][0][2], kv_bytes_policy=seen["policy"][0][2],
        prefill_full=prefill["full"], prefill_policy=prefill["policy"],
        decode_full=decode["full"], decode_policy=decode["policy"],
    )  # fmt: skip


def _timed(model: Model, policy: Policy | None, ids: torch.Tensor, tokens: int) -> tuple[float, float, int]:
    """Seconds of the prefill, seconds per token after it, bytes in the cache after the prefill."""
    gc.collect()
    with serving(model, policy) as cache:
        began = _now(model)
        model.hf(input_ids=ids, past_key_values=cache, logits_to_keep=1)
        filled = _now(model)
        held = kv_bytes(cache)
        for _ in range(tokens):
            model.hf(input_ids=ids[:, -1:], past_key_values=cache, logits_to_keep=1)
        return filled - began, (_now(model) - filled) / tokens, held


def _now(model: Model) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()


def _device(model: Model) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{model.device.type}, {torch.get_num_threads()} threads"
