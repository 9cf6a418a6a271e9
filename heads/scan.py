"""The scan: prompts in, one prefill each, parts on disk, detectors over parts, a HeadMap out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headscope.heads.added import keep_added
from headscope.heads.detect import detect
from headscope.heads.evidence import write_evidence
from headscope.heads.headmap import HeadMap, MapMeta
from headscope.heads.parts import part_key, read_part, write_part
from headscope.heads.presets import Preset
from headscope.heads.presets import preset as preset_named
from headscope.heads.run import Manifest, Plan, RunFolder, text_hash, utc_now, working_folder
from headscope.heads.shards import Shards
from headscope.heads.storage import write_json, write_table
from headscope.probes import BadFile, HeadscopeError, Model, Observation, Prompt, observe
from headscope.sinks import layer_profile


@dataclass(frozen=True)
class Progress:
    """How far a scan is; handed to the `progress` callback before the first and after every part.

    Attributes:
        done, total: parts finished and planned, all processes together as seen on disk.
        share: share of the estimated work done, 0 ... 1 (long prompts weigh more).
        seconds_left: estimate from the speed so far; None before the first part of this process.
        prompt: the prompt just finished.
    """

    done: int
    total: int
    share: float
    seconds_left: float | None
    prompt: Prompt | None


def scan(
    model: Model,
    preset: str | Preset = "standard",
    out: str | os.PathLike[str] | None = None,
    *,
    context: int | None = None,
    haystack: str | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> HeadMap:
    """Map every head of `model`.

    Args:
        model: from `load`.
        preset: `quick`, `standard`, `thorough`, or a `Preset`.
        out: run folder; finished parts are reused when it is there already. None keeps nothing.
        context: longest prompt in tokens, in place of the preset's.
        haystack: text to hide needles in, in place of the default one.
        seed: seed of prompts and row samples.
        progress: called after every part.

    Returns:
        The HeadMap. Under torchrun, prompts are shared out between the processes, and every
        process returns the same map.

    Raises:
        HeadscopeError: a run folder that holds another scan, a context the model lacks, ...
    """
    chosen = preset if isinstance(preset, Preset) else preset_named(preset)
    longest = _context(model, context or chosen.context, asked=context is not None)
    prompts = chosen.prompts(model, context=longest, seed=seed, haystack=haystack)
    recipe = chosen.recipe(seed)
    dtype = str(model.hf.dtype).removeprefix("torch.")
    plan = Plan(
        model=model.name, fingerprint=model.fingerprint, geometry=model.geometry, dtype=dtype,
        preset=chosen.name, context=longest, seed=seed, recipe=recipe,
        haystack=text_hash(haystack),
        parts=tuple(part_key(model.fingerprint, dtype, recipe, p) for p in prompts),
    )  # fmt: skip
    shards = Shards()
    if out is None and shards.count > 1:
        raise HeadscopeError("Several processes need a run folder to share: give out=.")
    with working_folder(out) as path:
        folder = RunFolder(path)
        manifest = shards.first_then_all(lambda: folder.begin(plan, utc_now(), str(model.device)))
        spent = _observe_all(model, prompts, plan, folder, shards, progress)
        total = shards.sum(spent)
        if shards.first:
            _finish(model, folder, manifest, total)
        shards.wait()
        headmap = HeadMap.open(folder.headmap)
    return HeadMap(headmap.frame, headmap.meta, Path(out) if out else None)


def _context(model: Model, wanted: int, asked: bool) -> int:
    """The longest prompt; a preset bends to a short model, a user's wish does not."""
    limit = model.geometry.context or wanted
    if wanted > limit and asked:
        raise HeadscopeError(f"context is {wanted} tokens, but {model.name!r} was built for at most {limit}.")
    return min(wanted, limit)


def _observe_all(
    model: Model,
    prompts: Sequence[Prompt],
    plan: Plan,
    folder: RunFolder,
    shards: Shards,
    progress: Callable[[Progress], None] | None,
) -> float:
    """Observe this process's share of the missing parts; seconds spent."""
    work = [_work(len(p), plan) for p in prompts]
    everything = sum(work)
    missing = [i for i, key in enumerate(plan.parts) if not _usable(folder.part(key))]
    shards.wait()  # all processes must have looked before one of them fills a gap
    done_before = everything - sum(work[i] for i in missing)
    mine, spent, finished = missing[shards.rank :: shards.count], 0.0, 0.0
    if progress:
        progress(Progress(len(prompts) - len(missing), len(prompts), done_before / everything, None, None))
    for step, i in enumerate(mine, 1):
        began = time.perf_counter()
        write_part(folder.part(plan.parts[i]), observe(model, prompts[i], plan.recipe))
        spent += time.perf_counter() - began
        finished += work[i]
        if progress:
            left = sum(work[j] for j in mine[step:]) * spent / finished
            share = (done_before + min(finished * shards.count, everything - done_before)) / everything
            done = len(prompts) - len(missing) + min(step * shards.count, len(missing))
            progress(Progress(done, len(prompts), share, left, prompts[i]))
    shards.wait()
    return spent


def _work(n: int, plan: Plan) -> float:
    """Relative cost of a prefill: a linear part, and attention's quadratic one."""
    return n * (12 * plan.geometry.hidden + n)


def _usable(path: Path) -> bool:
    """Whether a part is there and whole; a damaged one is observed again."""
    if not path.exists():
        return False
    try:
        read_part(path)
    except BadFile:
        path.unlink(missing_ok=True)
        return False
    return True


def _finish(model: Model, folder: RunFolder, manifest: Manifest, seconds: float) -> None:
    """Score from the parts on disk, in the order of the plan, so that it never matters who made them."""
    plan = manifest.plan
    seen = [read_part(folder.part(key)) for key in plan.parts]

    def decode(ids: Sequence[int]) -> list[str]:
        return _tokens(model.tokenizer, ids)

    frame, about, rules = detect(seen, plan.geometry, decode)
    meta = MapMeta(
        model=plan.model, fingerprint=plan.fingerprint, geometry=plan.geometry, preset=plan.preset,
        seed=plan.seed, context=plan.context, tasks=_counts(seen), accuracy=_accuracy(seen),
        rules=rules, columns=about, versions=manifest.versions,
    )  # fmt: skip
    layers = layer_profile(seen, decode)
    write_table(folder.layers, layers, meta)
    write_evidence(folder.evidence, seen, decode, plan.geometry.hidden)
    keep_added(HeadMap(frame, meta), folder.headmap).save(folder.headmap)
    manifest.seconds += seconds
    manifest.finish()
    write_json(folder.manifest, manifest)


def _tokens(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    return [str(tokenizer.decode([i])) for i in ids] if tokenizer else [str(i) for i in ids]


def _counts(seen: Sequence[Observation]) -> dict[str, int]:
    return {
        task: sum(o.prompt.task == task for o in seen) for task in dict.fromkeys(o.prompt.task for o in seen)
    }


def _accuracy(seen: Sequence[Observation]) -> dict[str, float]:
    asked = [o for o in seen if o.prompt.answer]
    names = dict.fromkeys(o.prompt.task for o in asked)
    return {n: sum(o.right for o in asked if o.prompt.task == n) / _counts(asked)[n] for n in names}
