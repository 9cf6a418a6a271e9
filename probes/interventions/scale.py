"""Scaling what heads add to the residual stream; removing them is scaling by zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from headscope.probes.geometry import HeadId
from headscope.probes.intervene import INTERVENTIONS, HeadOutputs, Learned, Settings
from headscope.probes.interventions._blend import blend, named
from headscope.probes.prompts import Prompt
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model


class _Scaled:
    """Every head's output times its strength."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def outputs(self, call: HeadOutputs) -> Tensor:
        return blend(call.z, 0.0, self.spec, call.layer, call.rows.acts)


@INTERVENTIONS.register
class Scale:
    """A head's output is multiplied by its strength: 2 doubles it, -1 turns it round."""

    name = "scale"
    summary = "multiply what heads add to the residual stream"
    strength = 2.0
    settings: type[Settings] = Settings
    stateful = False

    def learn(
        self,
        model: Model,
        heads: tuple[HeadId, ...] | None,
        prompts: Sequence[Prompt],
        settings: Settings,
        seed: int,
    ) -> Learned:
        return Learned(named(heads, self.name))

    def edit(self, model: Model, spec: Spec, settings: Settings) -> _Scaled:
        return _Scaled(spec)


@INTERVENTIONS.register
class Zero(Scale):
    """A head adds nothing. The residual stream then lacks the head's average contribution too."""

    name = "zero"
    summary = "remove what heads add to the residual stream"
    strength = 0.0
