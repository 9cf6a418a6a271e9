"""Finding a circuit: one signature for every method."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from headscope.probes.circuits.circuit import Circuit
from headscope.probes.circuits.method import METHODS, Progress
from headscope.probes.circuits.pairs import Pairs, pairs
from headscope.probes.errors import HeadscopeError
from headscope.probes.files import first_fault
from headscope.probes.prompts import Prompt
from headscope.probes.software import versions

if TYPE_CHECKING:
    from headscope.probes.model import Model

PROMPTS = 32


def discover(
    model: Model,
    task: str | Pairs,
    *,
    method: str = "eap-ig",
    prompts: int | Sequence[Prompt] = PROMPTS,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> Circuit:
    """Score the nodes (and edges) of a model by how much they matter to a task.

    Args:
        model: any loaded decoder.
        task: a task of pairs, or pairs made before, so that several methods see the same ones.
        method: a name in `METHODS`.
        prompts: how many prompts that the model answers right, or prompts of one's own.
        settings: the method's own numbers, by name.
        seed: seed of the prompts and of everything random in the method.
        force: go on with a task that the model cannot do.
        progress: called with the steps done and all of them.

    Raises:
        UnknownName: no such method or task.
        HeadscopeError: settings the method does not know, prompts without counterfactuals.
        Refused: the model cannot do the task, or the method cannot read its architecture.
    """
    found_by = METHODS[method]
    try:
        chosen = found_by.settings.model_validate(dict(settings or {}))
    except ValidationError as error:
        known = ", ".join(found_by.settings.model_fields) or "none"
        raise HeadscopeError(
            f"The settings of {method!r} are not valid: {first_fault(error)}. Known: {known}."
        ) from error
    if isinstance(task, Pairs):
        asked = task
    elif isinstance(prompts, int):
        asked = pairs(model, task, prompts, seed=seed, force=force)
    else:
        asked = Pairs.given(task, prompts)
    began = time.perf_counter()
    found = found_by.find(model, asked.prompts, chosen, seed, progress)
    cost = found_by.cost(model, chosen).model_copy(update={"seconds": time.perf_counter() - began})
    return Circuit(
        method=method, settings=chosen.model_dump(mode="json"), unit=found.unit, task=asked.task,
        accuracy=asked.accuracy, tried=asked.tried, prompts=len(asked.prompts), seed=seed,
        model=model.name, fingerprint=model.fingerprint, geometry=model.geometry, clean=found.clean,
        counterfactual=found.counterfactual, nodes=found.nodes, edges=found.edges, cost=cost,
        versions=versions(), note=found.note,
    )  # fmt: skip
