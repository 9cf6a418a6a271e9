"""The run folder of a training of gates: its state, and the table it ends in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headscope.heads.gate_plan import GateManifest, GatePlan
from headscope.heads.headmap import ColumnInfo, HeadMap, MapMeta
from headscope.heads.run import differences, versions
from headscope.heads.storage import read_table, write_table
from headscope.probes import (
    BadFile,
    HeadscopeError,
    read_json,
    write_atomically,
    write_json,
)


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
