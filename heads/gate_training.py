"""Training gates: one prompt a step, the state on disk every few steps, a head map at the end."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from headscope.heads.gate_plan import GatePlan, GateSettings
from headscope.heads.gate_run import GateFolder, gate_map
from headscope.heads.gates import distil
from headscope.heads.headmap import HeadMap
from headscope.heads.run import text_hash, utc_now, working_folder
from headscope.probes import TASKS, HeadscopeError, Model, Prompt, Task, write_json

SAVE_EVERY = 10  # steps that a sudden end may cost


@dataclass(frozen=True)
class GateProgress:
    """How far a training is; handed to the `progress` callback before the first and after every step.

    Attributes:
        done, total: steps finished and planned.
        share: share of the steps done, 0 ... 1.
        seconds_left: estimate from the speed so far; None before the first step of this process.
        loss: squared difference of the hidden states in the last step.
        mean_gate: mean gate.
    """

    done: int
    total: int
    share: float
    seconds_left: float | None
    loss: float
    mean_gate: float


def length_schedule(shortest: int, longest: int, count: int = 50) -> tuple[int, ...]:
    """Prompt lengths evenly spread from `shortest` to `longest`; DuoAttention has 50 from 1,000 to 32,000.

    Raises:
        HeadscopeError: `shortest` lies above `longest`.
    """
    if not 0 < shortest <= longest:
        raise HeadscopeError(f"The shortest prompt is {shortest} tokens and the longest {longest}.")
    spread = torch.linspace(shortest, longest, count, dtype=torch.float64).round().int()
    return tuple(dict.fromkeys(int(n) for n in spread))


def train_gates(
    model: Model,
    settings: GateSettings,
    out: str | os.PathLike[str] | None = None,
    *,
    task: str | Task = "recital",
    haystack: str | None = None,
    progress: Callable[[GateProgress], None] | None = None,
) -> HeadMap:
    """Train one gate per KV head of `model`, after DuoAttention (arXiv 2410.10819).

    Args:
        model: from `load`; stays as it is.
        settings: steps, lengths, windows, ...
        out: run folder; a training that was stopped goes on where it was. None keeps nothing.
        task: makes the prompts; they must have a `question`.
        haystack: text to hide passkeys in, in place of the default one.
        progress: called after every step.

    Returns:
        A head map with the column `gate`, the same for all query heads of a KV group. 0 ... 1

    Raises:
        HeadscopeError: settings out of range, a run folder that holds something else, ...
    """
    settings.check(model)
    if model.tokenizer is None and isinstance(task, str):
        raise HeadscopeError(f"{model.name!r} was loaded without a tokenizer, so it cannot read prompts.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise HeadscopeError("Gates are trained in one process; start it without torchrun.")
    maker = task if not isinstance(task, str) else TASKS[task]
    plan = GatePlan(
        **settings.model_dump(), model=model.name, fingerprint=model.fingerprint, geometry=model.geometry,
        dtype=str(model.hf.dtype).removeprefix("torch."), task=maker.name,
        haystack=text_hash(haystack),
    )  # fmt: skip

    def prompt_of(step: int) -> Prompt:
        """The prompt of a step follows from the seed and the step alone."""
        rng = Random(f"gates/{plan.seed}/{step}")
        length, seed = rng.choice(plan.lengths), rng.getrandbits(32)
        return maker.prompts(model.tokenizer, lengths=(length,), per_length=1, seed=seed, haystack=haystack)[
            0
        ]

    with working_folder(out) as path:
        folder = GateFolder(path)
        manifest = folder.begin(plan, utc_now(), str(model.device))
        gates, manifest.seconds = _descend(model, plan, folder, prompt_of, progress)
        headmap = gate_map(plan, gates, manifest.versions)
        headmap.save(folder.headmap)
        manifest.finish()
        write_json(folder.manifest, manifest)
    return HeadMap(headmap.frame, headmap.meta, Path(out) if out else None)


def _descend(
    model: Model,
    plan: GatePlan,
    folder: GateFolder,
    prompt_of: Callable[[int], Prompt],
    progress: Callable[[GateProgress], None] | None,
) -> tuple[Tensor, float]:
    """From what the folder holds to the last step: the gates [L, Hkv], and seconds of all steps."""
    first, state, curve = folder.load(plan)
    gates = state["gates"].requires_grad_()
    adam = torch.optim.AdamW([gates], weight_decay=0.0)
    adam.state[gates] = {
        "step": torch.tensor(float(first)), "exp_avg": state["mean"], "exp_avg_sq": state["square"],
    }  # fmt: skip
    rows: list[dict[Any, Any]] = curve.to_dict("records")
    if progress:
        progress(_progress(plan, rows, first))
    for step in range(first, plan.steps):
        rows.append({"step": step + 1} | _step(model, plan, gates, adam, prompt_of(step), step))
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
            folder.save(plan, step + 1, _state(gates, adam), pd.DataFrame(rows))
        if progress:
            progress(_progress(plan, rows, first))
    return gates.detach(), float(pd.DataFrame(rows)["seconds"].sum())


def _step(
    model: Model, plan: GatePlan, gates: Tensor, adam: torch.optim.AdamW, prompt: Prompt, step: int
) -> dict[str, Any]:
    """One prompt, one update: a row of the curve."""
    began, rate = time.perf_counter(), _rate(plan, step)
    adam.zero_grad()
    loss = distil(
        model, gates, prompt, sink=plan.sink, recent=plan.recent, penalty=plan.penalty,
        recompute=plan.recompute,
    )  # fmt: skip
    if not math.isfinite(loss):
        raise HeadscopeError(
            f"The loss of step {step + 1} is {loss} in {plan.dtype}; train in float32 or bfloat16."
        )
    for group in adam.param_groups:
        group["lr"] = rate
    adam.step()
    with torch.no_grad():
        gates.clamp_(0, 1)
    return {
        "length": len(prompt), "loss": loss, "learning_rate": rate, "mean_gate": float(gates.detach().mean()),
        "open_gates": float((gates > 0.5).float().mean()), "seconds": time.perf_counter() - began,
    }  # fmt: skip


def _state(gates: Tensor, adam: torch.optim.AdamW) -> dict[str, Tensor]:
    moments = adam.state[gates]
    return {"gates": gates.detach(), "mean": moments["exp_avg"], "square": moments["exp_avg_sq"]}


def _progress(plan: GatePlan, rows: list[dict[Any, Any]], first: int) -> GateProgress:
    """Where things stand after `rows`, of which this process made those from `first` on."""
    done, mine = len(rows), [row["seconds"] for row in rows[first:]]
    left = sum(mine) / len(mine) * (plan.steps - done) if mine else None
    last = rows[-1] if rows else {"loss": 0.0, "mean_gate": 1.0}
    return GateProgress(done, plan.steps, done / plan.steps, left, last["loss"], last["mean_gate"])


def _rate(plan: GatePlan, step: int) -> float:
    """The learning rate of a step: a tenth to the whole over the first fifth, and back over the last."""
    ramp = max(1, plan.steps // 5)
    return plan.learning_rate * min(1.0, 0.1 + 0.9 * min(step, plan.steps - 1 - step) / ramp)
