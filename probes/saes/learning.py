"""The steps of a training: SAELens' trainers, driven together over one stream of activations.

Each SAE has SAELens' own `SAETrainer` with its own optimiser; all of them see the same tokens, so that
several sites cost one forward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from headscope.probes.saes.resume import SaeState
from headscope.probes.saes.settings import SaeSettings, saelens, untrained
from headscope.probes.saes.sites import Site
from headscope.probes.saes.stream import Stream

if TYPE_CHECKING:
    from headscope.probes.model import Model

_SAVED_EVERY = 60.0  # seconds


@dataclass(frozen=True)
class SaeProgress:
    """How far a training is.

    Attributes:
        done, total: steps.
        seconds: spent by this process so far.
        begun: steps that were done before it began.
    """

    done: int
    total: int
    seconds: float
    begun: int

    @property
    def share(self) -> float:
        """Share of the work. 0 ... 1"""
        return self.done / self.total

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the speed so far; None before there is one."""
        made = self.done - self.begun
        return self.seconds / made * (self.total - self.done) if made else None


def trainer_of(model: Model, site: Site, settings: SaeSettings) -> Any:
    """SAELens' trainer of one SAE. It is driven batch by batch, so that it needs no data of its own."""
    device = str(model.device)
    sae = untrained(settings, site, site.width(model.geometry), device)
    saelens()
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    steps = settings.steps
    return SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=steps * settings.batch, train_batch_size_samples=settings.batch,
            lr=settings.learning_rate, lr_end=settings.learning_rate / 10, device=device,
            lr_warm_up_steps=max(1, steps // 20), lr_decay_steps=steps // 5,
            dead_feature_window=max(20, min(1000, steps // 20)),
        ),
        sae=sae, data_provider=iter(()),
    )  # fmt: skip


def learn(
    trainers: dict[Site, Any],
    stream: Stream,
    steps: int,
    progress: Callable[[SaeProgress], object] = lambda step: None,
    *,
    state: SaeState | None = None,
    save: Callable[[SaeState], object] = lambda state: None,
) -> float:
    """Take all steps, from `state` on.

    Args:
        trainers: one per site.
        stream: where their batches come from.
        steps: how many in all.
        progress: called after every step.
        state: where a stopped training was; None for a fresh one.
        save: called with the state about once a minute, where a buffer ends.

    Returns:
        seconds the steps took, those before `state` included.
    """
    state = state or SaeState()
    stream.seen, stream.dropped = state.seen, state.dropped
    began = kept = time.monotonic()
    step, fill = state.step, state.fill
    while step < steps:
        filled = stream.fill(fill)
        if fill == 0:
            _scale(trainers, filled)
        for batch in stream.batches(filled):
            for site, trainer in trainers.items():
                trainer.step(batch[site])
                trainer.n_training_steps += 1
            step += 1
            progress(SaeProgress(step, steps, time.monotonic() - began, state.step))
            if step == steps:
                break
        fill += 1
        del filled
        if step < steps and time.monotonic() - kept > _SAVED_EVERY:
            spent = state.seconds + time.monotonic() - began
            save(SaeState(step=step, fill=fill, seconds=spent, seen=stream.seen, dropped=stream.dropped))
            kept = time.monotonic()
    return state.seconds + time.monotonic() - began


def _scale(trainers: dict[Site, Any], filled: dict[Site, Tensor]) -> None:
    """Set SAELens' `expected_average_only_in`: activations get a mean norm of sqrt(width)."""
    for site, trainer in trainers.items():
        mean = float(filled[site].norm(dim=-1).mean())
        trainer.activation_scaler.scaling_factor = filled[site].shape[1] ** 0.5 / max(mean, 1e-12)
