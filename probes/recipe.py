"""How a prompt is observed. Apart from the observing, so that reading a run needs no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Watch(BaseModel):
    """What to measure of a row.

    Attributes:
        first: sizes k of the leading key sets whose mass is kept.
        recent: widths of the trailing windows whose mass is kept.
        keep: (sink, recent) pairs a row might be cut down to; DuoAttention deploys (64, 256).
        top: how many of the heaviest keys of a row to name.
        received: whether to sum up the mass that each key got.
        chunk_elements: elements of one chunk of scores; None picks by device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: tuple[int, ...] = (1, 4, 64)
    recent: tuple[int, ...] = (64, 256, 1024)
    keep: tuple[tuple[int, int], ...] = ((64, 256),)
    top: int = Field(default=8, ge=0)
    received: bool = True
    chunk_elements: int | None = Field(default=None, ge=1)


class Recipe(BaseModel):
    """How a prompt is observed; part of the key under which an observation is kept.

    Attributes:
        watch: what to measure of each row.
        sample: how many rows a prompt are drawn for the averages (all, where it has fewer).
        seed: seed of that draw.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    watch: Watch = Watch()
    sample: int = Field(default=128, ge=2)
    seed: int = 0
