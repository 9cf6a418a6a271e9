"""Faithfulness: how much of a task is left when everything outside a circuit is ablated.

The measures of MIB (Mueller et al. 2025, arXiv 2504.13151): with m the mean log-odds of the right
against the wrong answer, f(C) = (m(C) - m(none)) / (m(all) - m(none)) for the circuit of the k largest
scores, CPR the area under f over k (higher is better, and more than 1 where the rest works against the
task), CMD the area between f and 1 (0 is best). Trapezoids over the sizes, k on a linear scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from headscope.probes.circuits.ablate import edge_runs, head_runs
from headscope.probes.circuits.anatomy import anatomy
from headscope.probes.circuits.circuit import Circuit
from headscope.probes.circuits.gradients import edge_names
from headscope.probes.circuits.method import ABLATIONS, Ablation, Progress
from headscope.probes.errors import HeadscopeError, unknown
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model

Grain = Literal["heads", "edges"]
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Curve(BaseModel):
    """Faithfulness over circuit size. K sizes.

    Attributes:
        method, task: of the circuit.
        grain: `heads` ablates head outputs and leaves MLPs live; `edges` ablates edges one by one.
        ablation: what stands in for what is ablated: the `counterfactual`'s, the `mean` over rows of the
            counterfactuals (the first row has its own), or `zero`.
        prompts: how many it was measured on.
        whole, nothing: mean log-odds of the untouched model, and with everything ablated. nats
        share: of all heads or edges that are in the circuit. [K]
        count: how many that are. [K]
        kept: mean log-odds of the circuit. nats [K]
        f: faithfulness; 0 as if all were ablated, 1 as if nothing. [K]
        f_se: standard error over prompts, of a ratio of means. [K]
        kept_share_se: standard error over prompts of `kept` over `whole`, a ratio of means. [K]
        cpr, cmd: areas over the sizes. cpr_se, cmd_se: their standard errors over prompts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    task: str
    grain: Grain
    ablation: Ablation
    prompts: int
    whole: float
    nothing: float
    share: tuple[float, ...]
    count: tuple[int, ...]
    kept: tuple[float, ...]
    f: tuple[float, ...]
    f_se: tuple[float | None, ...]
    kept_share_se: tuple[float | None, ...] = ()
    cpr: float
    cpr_se: float | None
    cmd: float
    cmd_se: float | None

    @model_validator(mode="after")
    def _even(self) -> Curve:
        each = {len(self.share), len(self.count), len(self.kept), len(self.f), len(self.f_se)}
        if len(each | {len(self.kept_share_se or self.share)}) != 1:
            raise ValueError("a curve has one share, count, kept, f and standard error of each size")
        return self

    def smallest(self, share: float = 0.8) -> int | None:
        """How many heads or edges the smallest circuit has that keeps this share of the log-odds."""
        return next((n for n, m in zip(self.count, self.kept, strict=True) if m >= share * self.whole), None)


def faithfulness(
    model: Model,
    circuit: Circuit,
    prompts: Sequence[Prompt],
    *,
    grain: Grain = "heads",
    ablation: Ablation = "counterfactual",
    sizes: Sequence[float] = SIZES,
    progress: Progress = lambda done, total: None,
) -> Curve:
    """Ablate all but the largest scores (absolute values) of a circuit, at several sizes.

    Nothing is linearised. Edges that hang loose need no pruning: an edge out of a writer that reads
    nothing of the circuit carries what it carries when ablated. Costs two passes a prompt and one for
    each size; at the grain of edges a pass of several times the price, see `Mixer`.

    Args:
        model: the model the circuit belongs to.
        circuit: what to test.
        prompts: preferably others than it was found on.
        grain: see `Curve`.
        ablation: see `Curve`.
        sizes: shares of all heads or edges, 0 ... 1, ascending.
        progress: called with the passes done and all of them.

    Raises:
        Refused: a circuit of another model, or an architecture whose stream is not a plain sum.
        UnknownName: no such ablation or grain.
        HeadscopeError: no prompts, a circuit without edges, sizes that do not ascend.
    """
    circuit.check(model)
    check_ablation(ablation)
    if grain not in ("heads", "edges"):
        raise unknown("grain", grain, ("heads", "edges"))
    if not sizes or list(sizes) != sorted(sizes) or not 0 <= sizes[0] <= sizes[-1] <= 1:
        raise HeadscopeError(f"sizes are {tuple(sizes)}; they must ascend within 0 ... 1.")
    scores = _scores(model, circuit, grain)
    counts = [round(share * len(scores)) for share in sizes]
    order = np.argsort(-np.abs(scores), kind="stable")
    different, again = np.unique([*counts, len(scores), 0], return_inverse=True)
    sets = np.zeros((len(different), len(scores)), bool)
    for i, n in enumerate(different):
        sets[i, order[:n]] = True
    runs = head_runs if grain == "heads" else edge_runs
    found = runs(model, prompts, sets, ablation, progress)[again]  # its last two: everything and nothing
    return _curve(circuit, grain, ablation, sizes, counts, found)


def check_ablation(ablation: str) -> None:
    """Refuse what is no ablation.

    Raises:
        UnknownName: it is not one of `ABLATIONS`.
    """
    if ablation not in ABLATIONS:
        raise unknown("ablation", ablation, ABLATIONS)


def _scores(model: Model, circuit: Circuit, grain: Grain) -> NDArray[np.float64]:
    if grain == "edges":
        if not len(circuit.edges):
            raise HeadscopeError(
                f"A {circuit.method!r} circuit scores no edges; use grain='heads', or the method 'eap-ig'."
            )
        names = edge_names(model.geometry, anatomy(model))
        if (list(circuit.edges.source), list(circuit.edges.target)) != names:
            raise HeadscopeError(
                f"This {circuit.method!r} circuit scores {len(circuit.edges)} edges, not all {len(names[0])} "
                "in the model's order; use grain='heads'."
            )
        return np.array(circuit.edges.score)
    frame = circuit.heads()
    if len(frame) != model.geometry.layers * model.geometry.heads:
        raise HeadscopeError(f"This {circuit.method!r} circuit scores {len(frame)} heads, not all of them.")
    return frame["score"].to_numpy()


def _curve(
    circuit: Circuit,
    grain: Grain,
    ablation: Ablation,
    sizes: Sequence[float],
    counts: Sequence[int],
    found: NDArray[np.float64],
) -> Curve:
    """From the log-odds of every set of `faithfulness` on every prompt. [K + 2, P]"""
    whole, nothing = found[-2], found[-1]
    gain, span = found[:-2] - nothing, (whole - nothing).mean()
    if abs(span) < 1e-9:
        raise HeadscopeError("Ablating everything changes nothing, so that faithfulness is not defined.")
    f = gain.mean(1) / span
    influence = (gain - f[:, None] * (whole - nothing)) / span  # of each prompt on each f
    lost = found[:-2] - found[:-2].mean(1, keepdims=True) / whole.mean() * whole
    k = np.asarray(sizes, np.float64)
    below = -np.sign(f - 1)
    cpr, cpr_se = float(np.trapezoid(f, k)), _se(np.trapezoid(influence, k, axis=0))
    cmd = float(np.trapezoid(np.abs(1 - f), k))
    cmd_se = _se(np.trapezoid(below[:, None] * influence, k, axis=0))
    return Curve(
        method=circuit.method, task=circuit.task, grain=grain, ablation=ablation, prompts=found.shape[1],
        whole=float(whole.mean()), nothing=float(nothing.mean()), share=tuple(sizes), count=tuple(counts),
        kept=tuple(found[:-2].mean(1).tolist()), f=tuple(f.tolist()),
        f_se=tuple(_se(row) for row in influence),
        kept_share_se=tuple(_se(row / whole.mean()) for row in lost),
        cpr=cpr, cpr_se=cpr_se, cmd=cmd, cmd_se=cmd_se,
    )  # fmt: skip


def _se(values: NDArray[np.float64]) -> float | None:
    if len(values) < 2:
        return None
    return float(values.std(ddof=1) / np.sqrt(len(values)))
