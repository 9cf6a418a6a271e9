"""What an intervention does, as a small file: which heads of which model, how strongly, and why."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FiniteFloat,
    JsonValue,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from headscope.probes.errors import HeadscopeError, Refused
from headscope.probes.files import read_json, write_json
from headscope.probes.geometry import Geometry, HeadId

if TYPE_CHECKING:
    from headscope.probes.model import Model

Positions = Literal["all", "prompt", "generated"]
UNTOUCHED = 1.0  # the strength at which every method leaves a head as it is


def _head(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return HeadId.parse(value)
    except HeadscopeError as error:
        raise ValueError(str(error)) from error


_WRITTEN = WithJsonSchema({"type": "string", "pattern": "^L[0-9]+H[0-9]+$"})
Head = Annotated[HeadId, BeforeValidator(_head), PlainSerializer(str), _WRITTEN]


class Source(BaseModel):
    """Where the heads and numbers of a spec came from; empty where nothing is to be said.

    Attributes:
        headmap: the run folder or head map that named the heads.
        column: the role or score column that ranked them.
        task: the task of the prompts that the method learned from.
        prompts: how many prompts those were.
        seed: seed of everything random in the fitting.
        note: anything else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    headmap: str = ""
    column: str = ""
    task: str = ""
    prompts: int = 0
    seed: int = 0
    note: str = ""


class Spec(BaseModel):
    """One intervention, ready to be applied.

    Attributes:
        schema_version: layout of the file.
        method: name of the method in `INTERVENTIONS`.
        heads: the query heads it acts on.
        strengths: per head, how much of the original is kept: 1 leaves the head as it is, 0
            makes the whole change, 2 the opposite one. What is changed is the method's.
        positions: the rows it acts on: `all`, those of the `prompt` that predict nothing new, or
            those that write the `generated` tokens (the last prompt token's row is the first).
        settings: the method's own numbers; its `settings` class says what they mean.
        model: what the model was called.
        fingerprint: hash of its weights.
        geometry: its shape.
        source: where all this came from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    method: str
    heads: tuple[Head, ...]
    strengths: tuple[FiniteFloat, ...]
    positions: Positions = "all"
    settings: dict[str, JsonValue] = {}
    model: str
    fingerprint: str
    geometry: Geometry
    source: Source = Source()

    @model_validator(mode="after")
    def _fits_together(self) -> Spec:
        if len(self.strengths) != len(self.heads):
            raise ValueError(f"{len(self.heads)} heads, but {len(self.strengths)} strengths")
        if len(set(self.heads)) != len(self.heads):
            raise ValueError("a head is named twice")
        wrong = [str(h) for h in self.heads if not self.geometry.has(h)]
        if wrong:
            raise ValueError(
                f"the model has {self.geometry.layers} layers of {self.geometry.heads} heads, no {wrong[0]}"
            )
        return self

    @property
    def layers(self) -> list[int]:
        """The layers it acts on, in order."""
        return sorted({head.layer for head in self.heads})

    def of_layer(self, layer: int) -> list[int]:
        """Which of `heads` lie in `layer`, as indices into `heads`."""
        return [i for i, head in enumerate(self.heads) if head.layer == layer]

    def with_strength(self, strengths: float | Iterable[float]) -> Spec:
        """The same intervention at another strength, one for all heads or one for each."""
        each = (
            (float(strengths),) * len(self.heads) if isinstance(strengths, int | float) else tuple(strengths)
        )
        return Spec.model_validate(self.model_dump() | {"strengths": each})

    def opposite(self) -> Spec:
        """The same change with its sign turned round."""
        return self.with_strength(2 * UNTOUCHED - s for s in self.strengths)

    def check(self, model: Model) -> None:
        """Refuse any model but the one this was fitted to.

        Raises:
            Refused: another shape or other weights.
        """
        if self.geometry != model.geometry:
            mine, its = self.geometry, model.geometry
            raise Refused(
                f"This {self.method!r} spec was fitted to {self.model!r} ({mine.layers} layers of "
                f"{mine.heads} heads), and {model.name!r} has another shape ({its.layers} of {its.heads})."
            )
        if self.fingerprint != model.fingerprint:
            raise Refused(
                f"This {self.method!r} spec was fitted to {self.model!r} with weights {self.fingerprint}, "
                f"and {model.name!r} has other weights ({model.fingerprint})."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(Path(path), self)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Spec:
        """Read what `save` wrote.

        Raises:
            BadFile: missing, damaged, or not a spec.
        """
        return read_json(Path(path), cls)
