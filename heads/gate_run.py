"""The run folder of a training of gates: its plan, its state, and the table it ends in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headscope.heads.headmap import ColumnInfo, HeadMap, MapMeta
from headscope.heads.run import Journal, Manifest, differences, versions
from headscope.heads.storage import read_table, write_table
from headscope.probes import (
    BadFile,
    Geometry,
    HeadscopeError,
    Model,
    read_json,
    write_atomically,
    write_json,
)


class GateSettings(BaseModel):
    """How gates are trained; the defaults are DuoAttention's, its windows those it deploys with.

    Attributes:
        steps: prompts, one each.
        lengths: prompt lengths in tokens; every step draws one. See `length_schedule`.
        sink, recent: what a row of a streaming head sees.
        learning_rate: of AdamW; rises from a tenth over the first fifth of the steps, and falls back
            to it over the last.
        penalty: weight of the gates' mean.
        recompute: whether layers are run twice to save memory; changes nothing else.
        seed: of the lengths and prompts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 2000
    lengths: tuple[int, ...]
    sink: int = 64
    recent: int = 256
    learning_rate: float = 0.02
    penalty: float = 0.05
    recompute: bool = False
    seed: int = 0

    def check(self, model: Model) -> None:
        """Raise HeadscopeError for what is out of range, or cannot be trained on `model`."""
        ranges = {
            "steps": (self.steps >= 1, "at least 1"),
            "sink": (self.sink >= 0, "at least 0"),
            "recent": (self.recent >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate <= 1, "above 0 and at most 1"),
            "penalty": (0 <= self.penalty < float("inf"), "a number from 0"),
        }
        wrong = [
            f"{n} is {getattr(self, n)}, but must be {least}"
            for n, (fine, least) in ranges.items()
            if not fine
        ]
        if wrong:
            raise HeadscopeError(f"{'; '.join(wrong)}.")
        shortest, longest = min(self.lengths, default=0), max(self.lengths, default=0)
        if shortest <= self.sink + self.recent:
            raise HeadscopeError(
                f"Prompts of {shortest} tokens fit into sink + recent = {self.sink} + {self.recent} keys, so "
                "nothing would be cut; train on longer ones."
            )
        if model.geometry.context and longest > model.geometry.context:
            raise HeadscopeError(
                f"length is {longest} tokens, but {model.name!r} was built for at most "
                f"{model.geometry.context}."
            )


class GatePlan(GateSettings):
    """Everything that decides what the gates will be.

    Attributes:
        model, fingerprint, geometry, dtype: whose heads, in which arithmetic.
        task: name of the task that makes the prompts.
        haystack: hash of the text they hide things in; empty for the default.
    """

    model: str
    fingerprint: str
    geometry: Geometry
    dtype: str
    task: str
    haystack: str


class GateManifest(Journal[GatePlan]):
    """`manifest.json` of a training of gates.

    Attributes:
        kind: tells it from a scan's.
        plan: what is being done.
        status: `running` until the head map is written.
        started, finished: UTC times, ISO 8601.
        seconds: time spent in steps.
        device: what it ran on.
        versions: versions of the libraries.
    """

    kind: Literal["gates"] = "gates"


def read_manifest(file: Path) -> Manifest | GateManifest:
    """The manifest of a scan, or that of a training of gates.

    Raises:
        BadFile: it is neither.
    """
    try:
        return read_json(file, GateManifest)
    except BadFile:
        return read_json(file, Manifest)


class GateFolder:
    """Names of the things in the run folder of a training of gates."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "manifest.json"
        self.state = path / "gates.safetensors"
        self.curve = path / "curve.parquet"
        self.headmap = path / "headmap.parquet"

    def begin(self, plan: GatePlan, started: str, device: str) -> GateManifest:
        """Start or continue the training `plan`.

        Raises:
            HeadscopeError: the folder holds another training, or a scan; nothing is touched.
        """
        if not self.manifest.exists():
            manifest = GateManifest(plan=plan, started=started, device=device, versions=versions())
            write_json(self.manifest, manifest)
            return manifest
        try:
            found = read_json(self.manifest, GateManifest)
        except BadFile as error:
            raise HeadscopeError(
                f"The run folder {str(self.path)!r} holds something else than gates; choose another --out."
            ) from error
        different = differences(found.plan, plan)
        if different:
            raise HeadscopeError(
                f"The run folder {str(self.path)!r} holds another training of gates ({different}); "
                "choose another --out, or delete it."
            )
        return found

    def save(self, plan: GatePlan, step: int, state: dict[str, Tensor], curve: pd.DataFrame) -> None:
        """Keep how far the training is. The state comes last: a curve that is ahead of it is cut."""
        write_table(self.curve, curve, plan)
        metadata = {"step": str(step), "plan": _key(plan)}
        write_atomically(self.state, lambda to: save_file(state, to, metadata))

    def load(self, plan: GatePlan) -> tuple[int, dict[str, Tensor], pd.DataFrame]:
        """The steps done, the gates with their optimiser's moments, and the loss of every step.

        Raises:
            BadFile: damaged, or of another training.
        """
        if not self.state.exists():
            shape = plan.geometry.layers, plan.geometry.kv_heads
            fresh = {"gates": torch.ones(shape), "mean": torch.zeros(shape), "square": torch.zeros(shape)}
            return 0, fresh, pd.DataFrame()
        try:
            with safe_open(self.state, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in ("gates", "mean", "square")}
            step = int(metadata["step"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise BadFile(f"{str(self.state)!r} is damaged: {error}. Delete the run, train again.") from error
        if metadata.get("plan") != _key(plan):
            raise BadFile(f"{str(self.state)!r} belongs to another training; delete the run and train again.")
        curve, _ = read_table(self.curve, GatePlan)
        return step, state, curve.head(step)


def _key(plan: GatePlan) -> str:
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()[:24]


def gate_map(plan: GatePlan, gates: Tensor, found_with: dict[str, str]) -> HeadMap:
    """The head map of trained gates: every query head has that of its KV head.

    Args:
        plan: how they were trained.
        gates: [L, Hkv], 0 ... 1
        found_with: versions of the libraries.
    """
    g = plan.geometry
    heads = [(layer, head, g.kv_head(head)) for layer in range(g.layers) for head in range(g.heads)]
    frame = pd.DataFrame(heads, columns=["layer", "head", "kv_head"])
    frame["gate"] = gates.repeat_interleave(g.group_size, 1).double().flatten().numpy()
    about = (
        f"share of full attention that a KV head keeps, trained for {plan.steps} steps against "
        f"{plan.sink} first + {plan.recent} recent keys"
    )
    info = ColumnInfo(
        about=about, tasks=(plan.task,), prompts=plan.steps, source="DuoAttention (arXiv 2410.10819)"
    )
    meta = MapMeta(
        model=plan.model, fingerprint=plan.fingerprint, geometry=g, preset="gates", seed=plan.seed,
        context=max(plan.lengths), tasks={plan.task: plan.steps}, columns={"gate": info}, versions=found_with,
        settings={"sink_size": plan.sink, "recent_size": plan.recent},
    )  # fmt: skip
    return HeadMap(frame, meta)
