"""What a training keeps on disk while it runs, so that stopping it loses a minute at most."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headscope.probes.errors import BadFile, Refused
from headscope.probes.files import first_fault, read_json, write_atomically, write_json
from headscope.probes.saes.corpus import Corpus
from headscope.probes.saes.sae import CARD
from headscope.probes.saes.settings import SaeSettings
from headscope.probes.saes.sites import Site

if TYPE_CHECKING:
    from headscope.probes.model import Model

PLAN, STATE = "training.json", "state"


class SaePlan(BaseModel):
    """`training.json`: everything that decides what the SAEs of a folder will be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    fingerprint: str
    precision: str
    sites: tuple[Site, ...]
    settings: SaeSettings
    texts: tuple[str, ...]
    digest: str
    context: int
    held: int
    dtype: str

    @classmethod
    def of(
        cls, model: Model, sites: Sequence[Site], settings: SaeSettings, corpus: Corpus, dtype: str
    ) -> SaePlan:
        """The plan of a training."""
        return cls(
            model=model.name, fingerprint=model.fingerprint, precision=str(model.hf.dtype),
            sites=tuple(sites), settings=settings, texts=corpus.names, digest=corpus.digest,
            context=corpus.windows.shape[1], held=len(corpus.held), dtype=dtype,
        )  # fmt: skip

    def finished_in(self, folder: Path) -> bool:
        """Whether `folder` holds the SAEs of this very plan.

        Raises:
            Refused: it holds a training of another plan.
        """
        if not (folder / PLAN).is_file():
            return False
        old = read_json(folder / PLAN, SaePlan)
        if old != self:
            names = [n for n in SaePlan.model_fields if getattr(old, n) != getattr(self, n)]
            raise Refused(
                f"{str(folder)!r} holds another training: other {', '.join(names)}. Give another folder."
            )
        return all((folder / str(site) / CARD).is_file() for site in self.sites)

    def write(self, folder: Path) -> None:
        """Say in `folder` that this plan is being carried out there."""
        write_json(folder / PLAN, self)


class SaeState(BaseModel):
    """How far a training was when it was last saved.

    Attributes:
        step, fill: steps taken, and the filling of the buffer to go on with.
        seconds: they took.
        seen, dropped: tokens read, and sinks among them.
        scales: the factor on the activations of each site, in the plan's order.
        saved: name of the folder that holds the trainers; empty at the beginning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = 0
    fill: int = 0
    seconds: float = 0.0
    seen: int = 0
    dropped: int = 0
    scales: tuple[float, ...] = ()
    saved: str = Field(default="", pattern=rf"^({STATE}-[0-9]+)?$")  # it is removed when it is outdated


def store(folder: Path, trainers: Mapping[Site, Any], state: SaeState) -> None:
    """Write all trainers; the state file comes last, and names the folder that is whole."""
    name = f"{STATE}-{state.step}"
    for site, trainer in trainers.items():
        write_atomically(folder / name / f"{site}.safetensors", partial(save_file, _tensors(trainer)))
    scales = tuple(t.activation_scaler.scaling_factor for t in trainers.values())
    old = _state(folder)
    write_json(folder / f"{STATE}.json", state.model_copy(update={"scales": scales, "saved": name}))
    if old.saved:
        _remove(folder / old.saved)


def restore(folder: Path, trainers: Mapping[Site, Any]) -> SaeState:
    """Put trainers back to where they were saved; a fresh state where nothing was.

    Raises:
        BadFile: a damaged state.
    """
    state = _state(folder)
    if not state.saved:
        return state
    if len(state.scales) != len(trainers):
        raise BadFile(
            f"The saved state in {str(folder)!r} is of {len(state.scales)} SAEs, not of {len(trainers)}. "
            "Remove it to begin anew."
        )
    for (site, trainer), scale in zip(trainers.items(), state.scales, strict=True):
        path = folder / state.saved / f"{site}.safetensors"
        try:
            _put(trainer, load_file(path, device=str(trainer.cfg.device)), state.step)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise BadFile(
                f"The saved state {str(path)!r} cannot be read: {first_fault(error)}. Remove {str(folder)!r} "
                "to begin anew."
            ) from error
        trainer.activation_scaler.scaling_factor = scale
    return state


def forget(folder: Path) -> None:
    """Remove the state of a training that is over."""
    state = _state(folder)
    (folder / f"{STATE}.json").unlink(missing_ok=True)
    if state.saved:
        _remove(folder / state.saved)


def _state(folder: Path) -> SaeState:
    path = folder / f"{STATE}.json"
    return read_json(path, SaeState) if path.is_file() else SaeState()


def _remove(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    if folder.is_dir():
        folder.rmdir()


def _tensors(trainer: Any) -> dict[str, Tensor]:
    """Everything of a trainer that is not its configuration."""
    found = {f"sae.{n}": w for n, w in trainer.sae.state_dict().items()}
    for i, moments in trainer.optimizer.state_dict()["state"].items():
        found |= {f"adam.{i}.{n}": torch.as_tensor(v) for n, v in moments.items()}
    found |= {
        "frequency": trainer.act_freq_scores, "since": trainer.n_forward_passes_since_fired,
        "samples": torch.tensor([trainer.n_training_samples, trainer.n_frac_active_samples]),
    }  # fmt: skip
    return {n: w.detach().clone().contiguous() for n, w in found.items()}


def _put(trainer: Any, found: dict[str, Tensor], steps: int) -> None:
    """Undo `_tensors`. The schedules are walked again, since they depend on nothing but the step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects an optimiser's step before each of these
        for _ in range(steps):
            trainer.lr_scheduler.step()
    for schedule in trainer.coefficient_schedulers.values():
        for _ in range(steps):
            schedule.step()
    trainer.sae.load_state_dict({n.removeprefix("sae."): w for n, w in found.items() if n.startswith("sae.")})
    adam = trainer.optimizer.state_dict()
    for name, value in found.items():
        if name.startswith("adam."):
            _, i, part = name.split(".")
            adam["state"].setdefault(int(i), {})[part] = value
    trainer.optimizer.load_state_dict(adam)
    trainer.act_freq_scores, trainer.n_forward_passes_since_fired = found["frequency"], found["since"]
    trainer.n_training_samples, trainer.n_frac_active_samples = found["samples"].tolist()
    trainer.n_training_steps = steps
