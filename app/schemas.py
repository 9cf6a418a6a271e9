"""The kinds of files that headscope writes and reads, each with its JSON Schema.

A table (`.parquet`) carries JSON under the key `headscope` of its metadata; the schema of such a
kind describes that JSON, and `docs/files/` its columns.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headscope.probes import schema_text, unknown, write_text

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes:
        name: how `headscope schema` calls it.
        file: what the file is called, below a run folder where it lives in one.
        about: what it holds.
        defined: the pydantic model of its JSON, as `module:class`.
    """

    name: str
    file: str
    about: str
    defined: str

    @property
    def model(self) -> type[BaseModel]:
        """The pydantic model; importing it may take a while."""
        module, _, name = self.defined.partition(":")
        found: type[BaseModel] = getattr(importlib.import_module(f"headscope.{module}"), name)
        return found

    @property
    def published(self) -> str:
        """The name of its schema's file."""
        return f"{self.name}.schema.json"


_SCAN = "a scan's plan, and how far it got"
_TRAINING = "a training's plan, and how far it got"
_PLANTED = "probes.toys.planted.models"
_CIRCUITS, _LOOKS = "circuits/TASK", "evidence/looks"
_RESUME = "probes.saes.resume"

KINDS = {
    kind.name: kind
    for kind in (
        FileKind("headmap", "headmap.parquet", "scores and labels of every head", "heads.headmap:MapMeta"),
        FileKind("layers", "layers.parquet", "extreme tokens, layer by layer", "heads.headmap:MapMeta"),
        FileKind("manifest", "manifest.json", _SCAN, "heads.run:Manifest"),
        FileKind("evidence", "evidence/prompts.json", "prompts whose rows are shown", "heads.evidence:Shown"),
        FileKind("rows", "evidence/rows.parquet", "which token looked where", "heads.evidence:Shown"),
        FileKind("proof", "causal.parquet", "what prove found out", "heads.proof:ProofMeta"),
        FileKind("sweep", "sweep.parquet", "quality against retained KV", "heads.sweeps:SweepMeta"),
        FileKind("gates", "manifest.json", _TRAINING, "heads.gate_plan:GateManifest"),
        FileKind("curve", "curve.parquet", "the loss of every step of it", "heads.gate_plan:GatePlan"),
        FileKind("checkpoints", "checkpoints.json", "scans of a training", "heads.training:TrainingIndex"),
        FileKind(
            "ablations", "ablations.parquet", "each head ablated alone", "heads.ablations:AblationsMeta"
        ),
        FileKind("job", "scan.json", "a scan that the dashboard started", "app.dashboard.jobs:Scan"),
        FileKind("fit", "fit.json", "a fit that the dashboard started", "app.dashboard.jobs:Fit"),
        FileKind("spec", "any name", "an intervention", "probes.spec:Spec"),
        FileKind(
            "circuit", f"{_CIRCUITS}/METHOD.json", "what carries a task", "probes.circuits.circuit:Circuit"
        ),
        FileKind("curves", f"{_CIRCUITS}/curves.json", "what circuits keep of it", "heads.circuits:Curves"),
        FileKind("looks", f"{_LOOKS}.json", "pictures and where their tokens lie", "heads.looks:_Gallery"),
        FileKind(
            "looks-rows", f"{_LOOKS}.parquet", "which token of a picture got how much", "heads.looks:_Gallery"
        ),
        FileKind("sae", "headscope.json", "what a trained SAE is of", "probes.saes.sae:SaeCard"),
        FileKind("sae-plan", "training.json", "the plan of a training of SAEs", f"{_RESUME}:SaePlan"),
        FileKind("sae-state", "state.json", "how far it got", f"{_RESUME}:SaeState"),
        FileKind("policy", "any name", "a serving policy with its certificate", "heads.policy:Policy"),
        FileKind("truth", "truth.json", "what a planted model's heads do", f"{_PLANTED}:Truth"),
        FileKind("exam", "any name", "what exam --json prints", "heads.exam.sitting:Examination"),
        FileKind("effect", "any name", "what intervene --json prints", "app.evaluated:Effect"),
        FileKind("evaluation", "any name", "what evaluate --json prints", "app.evaluated:Evaluation"),
    )
}


def schema_of(name: str) -> str:
    """The JSON Schema (2020-12) of a kind of file.

    Raises:
        UnknownName: no such kind.
    """
    if name not in KINDS:
        raise unknown("kind of file", name, KINDS)
    kind = KINDS[name]
    return schema_text(kind.model, f"headscope {name}: {kind.about}")


def write_schema(name: str, path: Path) -> None:
    """Write the schema of a kind of file."""
    text = schema_of(name)
    write_text(path, text)


def write_schemas(folder: Path) -> None:
    """Write the schema of every kind into a folder."""
    for kind in KINDS.values():
        write_schema(kind.name, folder / kind.published)
