"""Interventions: reversible changes to what chosen heads do, under `generate` as in plain forwards.

`fit` makes a `Spec`, `applied` (in `apply`) runs the model under it and leaves no trace. A method
is one file in the `interventions` folder of `probes`, `sinks` or `heads`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from headscope.probes.errors import HeadscopeError
from headscope.probes.files import first_fault
from headscope.probes.geometry import HeadId
from headscope.probes.passes import Rows
from headscope.probes.prompts import Prompt
from headscope.probes.registry import Registry
from headscope.probes.seam import AttentionCall
from headscope.probes.spec import Positions, Source, Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model


class Settings(BaseModel):
    """A method's own numbers; methods that have some derive from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def only(self, index: Sequence[int]) -> Self:
        """The settings of a spec that is left with these of its heads; the same unless overridden."""
        return self

    def asked(self) -> dict[str, Any]:
        """What a user would have to say to get these, without what was learned for the heads."""
        return self.model_dump()


@dataclass(frozen=True)
class HeadOutputs:
    """What the heads of one layer hand to the output projection. B sequences, T rows, D value_dim.

    Attributes:
        layer: 0-based layer index.
        z: every head's output. [B, T, H, D]
        rows: where the rows stand, and which of them to change.
    """

    layer: int
    z: Tensor
    rows: Rows


@runtime_checkable
class OutputEdit(Protocol):
    """Changes head outputs: returns the z that the model goes on with. [B, T, H, D]

    One object serves one `applied` block, in which it may keep state from pass to pass.
    """

    def outputs(self, call: HeadOutputs) -> Tensor: ...


@runtime_checkable
class AttentionEdit(Protocol):
    """Changes attention itself: returns the output of the call. [B, Tq, H, D]"""

    def attention(self, call: AttentionCall, rows: Rows) -> Tensor: ...


@runtime_checkable
class AttentionInstead(Protocol):
    """An attention edit that can compute some outputs itself, without those of the untouched model.

    It is asked first where no other edit of attention comes before it: None leaves a call to
    `attention`.
    """

    def instead(self, call: AttentionCall, rows: Rows) -> Tensor | None: ...


@runtime_checkable
class InputReader(Protocol):
    """An edit that is shown what goes into each of its layers, before it acts there.

    `hidden` is the residual stream of the new tokens [B, T, hidden], `past` how many came before.
    """

    def inputs(self, layer: int, hidden: Tensor, past: int) -> None: ...


@dataclass(frozen=True)
class Learned:
    """What a method learned: its heads, its settings, and strengths where they differ by head."""

    heads: tuple[HeadId, ...]
    settings: Settings = field(default_factory=Settings)
    strengths: tuple[float, ...] | None = None
    task: str = ""
    prompts: int = 0
    note: str = ""


class Intervention(Protocol):
    """A method, in its own file.

    Attributes:
        name: the method's name.
        summary: one line for `headscope list`.
        strength: what is kept of the original unless the user says otherwise; see `Spec`.
        settings: its own numbers.
        stateful: whether what it does in a row depends on having seen the rows before, so that it
            has to be there from the first token on.
    """

    name: str
    summary: str
    strength: float
    settings: type[Settings]
    stateful: bool

    def learn(
        self,
        model: Model,
        heads: tuple[HeadId, ...] | None,
        prompts: Sequence[Prompt],
        settings: Settings,
        seed: int,
    ) -> Learned:
        """Find what the spec has to say.

        Args:
            model: what will be changed.
            heads: what to act on; None lets the method choose.
            prompts: what it learns from; empty takes what it thinks best.
            settings: as the user wants them.
            seed: everything random follows from it.

        Raises:
            HeadscopeError: it cannot choose heads itself, or not from these prompts.
        """
        ...

    def edit(self, model: Model, spec: Spec, settings: Settings) -> OutputEdit | AttentionEdit:
        """The intervention at work in `model`, for one `applied` block."""
        ...


INTERVENTIONS: Registry[Intervention] = Registry(
    "intervention",
    # By name: methods may build on any room, so this room cannot import theirs.
    "headscope.probes.interventions",
    "headscope.sinks.interventions",
    "headscope.heads.interventions",
)


def fit(
    model: Model,
    method: str,
    *,
    heads: Sequence[HeadId | str] | None = None,
    prompts: Sequence[Prompt] = (),
    strength: float | None = None,
    positions: Positions = "all",
    seed: int = 0,
    source: Source | None = None,
    **settings: Any,
) -> Spec:
    """Make the spec of an intervention for `model`.

    Args:
        model: from `load`.
        method: a name in `INTERVENTIONS`.
        heads: what to act on, `HeadId`s or names like `L18H6`; None lets the method choose.
        prompts: what the method learns from; its own default when empty.
        strength: how much of the original is kept, 1 ... all of it; the method's default if None.
        positions: the rows it acts on; see `Spec`.
        seed: everything random follows from it.
        source: where the heads came from.
        settings: the method's own numbers.

    Raises:
        UnknownName: no such method.
        HeadscopeError: heads the model lacks, settings or a strength out of range, nothing to learn from.
    """
    entry = INTERVENTIONS[method]
    chosen = None if heads is None else tuple(HeadId.parse(h) if isinstance(h, str) else h for h in heads)
    for head in chosen or ():
        if not model.geometry.has(head):
            g = model.geometry
            raise HeadscopeError(f"{model.name!r} has {g.layers} layers of {g.heads} heads, no {head}.")
    if strength is not None and not math.isfinite(strength):
        raise HeadscopeError(f"strength is {strength}; it is a finite number, 1 to leave heads as they are.")
    learned = entry.learn(model, chosen, prompts, _settings(entry, settings), seed)
    kept = entry.strength if strength is None else strength
    where = source or Source()
    where = where.model_copy(
        update={
            "task": learned.task,
            "prompts": learned.prompts,
            "seed": seed,
            "note": learned.note or where.note,
        }
    )
    return Spec(
        method=method, heads=learned.heads, positions=positions, model=model.name,
        strengths=(kept,) * len(learned.heads) if learned.strengths is None else learned.strengths,
        settings=learned.settings.model_dump(mode="json"),
        fingerprint=model.fingerprint, geometry=model.geometry, source=where,
    )  # fmt: skip


def _settings(entry: Intervention, given: dict[str, Any]) -> Settings:
    try:
        return entry.settings.model_validate(given)
    except ValidationError as error:
        known = ", ".join(entry.settings.model_fields) or "none"
        raise HeadscopeError(
            f"The settings of {entry.name!r} are wrong: {first_fault(error)}. It has: {known}."
        ) from error


def only(spec: Spec, heads: Sequence[HeadId]) -> Spec:
    """The same intervention on fewer heads, in the order given.

    Raises:
        HeadscopeError: a head that the spec does not have.
    """
    missing = [str(h) for h in heads if h not in spec.heads]
    if missing:
        raise HeadscopeError(f"The {spec.method!r} spec does not act on {missing[0]}.")
    index = [spec.heads.index(h) for h in heads]
    settings = _settings(method_of(spec), spec.settings).only(index)
    return spec.model_copy(
        update={
            "heads": tuple(heads),
            "strengths": tuple(spec.strengths[i] for i in index),
            "settings": settings.model_dump(mode="json"),
        }
    )


def elsewhere(model: Model, spec: Spec, heads: Sequence[HeadId]) -> Spec:
    """The same intervention on other heads, as many in each layer, with the layer's strengths.

    What the method learns per head it learns anew, from the texts that it thinks best.
    """
    asked = _settings(method_of(spec), spec.settings).asked()
    order = sorted(range(len(spec.heads)), key=lambda i: spec.heads[i].layer)
    fresh = fit(
        model, spec.method, heads=sorted(heads), positions=spec.positions, seed=spec.source.seed, **asked
    )
    return fresh.with_strength(spec.strengths[i] for i in order)


def method_of(spec: Spec) -> Intervention:
    """The method of a spec."""
    return INTERVENTIONS[spec.method]


def edit_of(model: Model, spec: Spec) -> OutputEdit | AttentionEdit:
    """A spec at work in the model that it was fitted to, for one `applied` block.

    Raises:
        Refused: another model.
    """
    spec.check(model)
    return method_of(spec).edit(model, spec, _settings(method_of(spec), spec.settings))
