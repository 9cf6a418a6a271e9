"""What a method of circuit discovery is, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt

from headscope.probes.circuits.circuit import Cost, Edges, Node
from headscope.probes.geometry import HeadId
from headscope.probes.prompts import Prompt
from headscope.probes.registry import Registry

if TYPE_CHECKING:
    from headscope.probes.effects import Effects
    from headscope.probes.model import Model

Progress = Callable[[int, int], object]
Ablation = Literal["counterfactual", "mean", "zero"]
ABLATIONS: tuple[Ablation, ...] = ("counterfactual", "mean", "zero")


class MethodSettings(BaseModel):
    """A method's own numbers; methods that have some derive from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TowardsSettings(MethodSettings):
    """Attributes:
    towards: what stands in for a node when it is taken away: the `counterfactual`'s value, its `mean`
        over the rows of all of them (the first row has its own), or `zero`. A circuit that is to stand
        an ablation should be found towards it.
    """

    towards: Ablation = "counterfactual"


class IntegratedSettings(TowardsSettings):
    """Attributes: steps: gradients to average, at 1/m, 2/m ... 1 of the way to the clean prompt."""

    steps: PositiveInt = 5


@dataclass(frozen=True)
class Found:
    """What a method says.

    Attributes:
        nodes: every node it scores.
        edges: every edge it scores.
        unit: what the scores are in.
        clean, counterfactual: mean log-odds on the prompts and their counterfactuals, in nats.
        note: what a reader should know.
    """

    nodes: tuple[Node, ...]
    edges: Edges = field(default_factory=Edges)
    unit: str = "nats"
    clean: float | None = None
    counterfactual: float | None = None
    note: str = ""


class Method(Protocol):
    """A way to find a circuit, in its own file.

    Attributes:
        name: the method's name.
        summary: one line for `headscope list`.
        source: paper and equation.
        baseline: whether it is there to be beaten; baselines are always shown beside the rest.
        settings: its own numbers.
    """

    name: str
    summary: str
    source: str
    baseline: bool
    settings: type[MethodSettings]

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        """Forward and backward passes per prompt (and `once`) it will take."""
        ...

    def find(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        settings: MethodSettings,
        seed: int,
        progress: Progress,
    ) -> Found:
        """Score nodes, and edges where it can.

        Args:
            model: the model.
            prompts: with counterfactuals.
            settings: an instance of the method's own `settings`.
            seed: everything random follows from it.
            progress: called with the steps done and all of them.

        Raises:
            HeadscopeError: not from these prompts.
        """
        ...


METHODS: Registry[Method] = Registry("circuit method", "headscope.probes.circuits.methods")


def head_nodes(value: NDArray[np.float64], se: NDArray[np.float64] | None = None) -> tuple[Node, ...]:
    """Nodes of all heads from scores [L, H] and standard errors [L, H]; NaN errors become unknown."""
    return tuple(
        Node(
            id=str(HeadId(i, j)), kind="head", layer=i, score=float(value[i, j]),
            se=None if se is None or not np.isfinite(se[i, j]) else float(se[i, j]),
        )
        for i, j in np.ndindex(value.shape)
    )  # fmt: skip


def of_effects(effects: Effects, note: str = "") -> Found:
    """What patching found, turned round: the log-odds that a head is worth, not what it changes."""
    found = effects.estimate()
    return Found(
        head_nodes(-found.value, found.se),
        clean=float(effects.clean[0].mean()), counterfactual=float(effects.counterfactual[0].mean()),
        note=note,
    )  # fmt: skip
