"""The policy: for every KV group what memory it keeps, for every query head what it reads.

`retain` acts on KV groups and decides memory: a group keeps every key, or its first `sink` and its
last `recent` ones. `compute` acts on query heads and decides work: inside a group that keeps
everything, a head may still read only sink + recent. A group keeps exactly what its heads together
read: more would be waste, less impossible.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headscope.heads.certificate import Certificate
from headscope.heads.storage import read_json, write_json
from headscope.probes import BadFile, Geometry, HeadscopeError

if TYPE_CHECKING:
    from headscope.heads.serving import Serving
    from headscope.probes import Model

LARGEST_FILE = 64 << 20  # bytes; the policy of a 126 x 128 model takes below 2 MB


class Window(BaseModel):
    """The first `sink` keys and the last `recent` ones, the query's own included.

    Attributes:
        sink: 0 or more.
        recent: 1 or more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sink: int = Field(ge=0, le=1 << 30)
    recent: int = Field(ge=1, le=1 << 30)

    @property
    def keys(self) -> int:
        """How many keys it holds."""
        return self.sink + self.recent


Span: TypeAlias = Window | None
"""What is kept or read: a window, or None for everything."""


class Origin(BaseModel):
    """How a policy was chosen.

    Attributes:
        by: the ranking of KV groups, see `headscope.heads.RANKINGS`, or a score column.
        ratio: share of KV groups asked to stay full.
        kv_budget: share of the KV bytes at `context` tokens asked to stay.
        max_error: highest score a streaming group was allowed.
        context: length at which `kv_budget` was counted.
        seed: seed, where chance took part.
        source: the head map or file it was made from.
        fingerprint: hash of that head map's scores, empty where there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    ratio: float | None = None
    kv_budget: float | None = None
    max_error: float | None = None
    context: int | None = None
    seed: int | None = None
    source: str = ""
    fingerprint: str = ""


_Score = Annotated[float, Field(allow_inf_nan=False)]


class Policy(BaseModel):
    """A serving policy and, once measured, its certificate.

    Attributes:
        format, schema_version: what kind of file this is.
        model: what the model was called.
        fingerprint: hash of its weights; empty where a policy was imported from elsewhere.
        geometry: its shape.
        retain: per layer and KV head, the keys that stay in the cache; None keeps all of them.
        compute: per layer and query head, the keys that are read; None reads all of them.
        scores: the KV-group score it was ranked by, higher = rather keep everything; None per group
            that was not ranked (its layer has a sliding window of its own).
        origin: how it was chosen.
        certificate: what it costs and saves, measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["headscope-policy"] = "headscope-policy"
    schema_version: Literal[1] = 1
    model: str
    fingerprint: str = ""
    geometry: Geometry
    retain: tuple[tuple[Span, ...], ...]
    compute: tuple[tuple[Span, ...], ...]
    scores: tuple[tuple[_Score | None, ...], ...] | None = None
    origin: Origin
    certificate: Certificate | None = None

    @model_validator(mode="after")
    def _fits(self) -> Policy:
        g = self.geometry
        for name, table, width in (
            ("retain", self.retain, g.kv_heads),
            ("compute", self.compute, g.heads),
            ("scores", self.scores, g.kv_heads),
        ):
            if table is not None and (len(table) != g.layers or any(len(row) != width for row in table)):
                raise ValueError(f"{name} must have {g.layers} layers of {width} entries")
        for layer, (kept, reads) in enumerate(zip(self.retain, self.compute, strict=True)):
            for group, span in enumerate(kept):
                members = reads[group * g.group_size : (group + 1) * g.group_size]
                if span != _union(members):
                    raise ValueError(f"KV group {group} of layer {layer} must keep what its heads read")
                if span is not None and g.windows[layer] is not None:
                    raise ValueError(f"layer {layer} has a sliding window of its own and keeps no sinks")
        return self

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a policy file.

        Raises:
            BadFile: missing, far too large, or not a policy.
        """
        file = Path(path)
        if file.exists() and not file.is_file():
            raise BadFile(f"{str(file)!r} is not a file.")
        if file.is_file() and file.stat().st_size > LARGEST_FILE:
            raise BadFile(f"{str(file)!r} has {file.stat().st_size:,} bytes; no policy is that large.")
        return read_json(file, cls)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(Path(path), self)

    @property
    def full_share(self) -> float:
        """Share of KV groups that keep everything. 0 ... 1"""
        kept = [span is None for row in self.retain for span in row]
        return sum(kept) / len(kept)

    def kv_bytes(self, length: int, *, batch: int = 1, itemsize: int = 2) -> int:
        """Bytes of keys and values that stay in the cache after `length` tokens.

        Raises:
            HeadscopeError: the policy was imported and does not know how wide the model's heads are.
        """
        g = self.geometry
        if not g.head_dim:
            raise HeadscopeError(
                f"The policy for {self.model!r} does not know the width of its heads, so it cannot "
                "count bytes; import with --like a map of the same model."
            )
        return _held(g, self.retain, length) * (g.head_dim + g.value_dim) * batch * itemsize

    def kv_share(self, length: int) -> float:
        """Those bytes over what the model keeps without a policy. 0 ... 1"""
        everything = tuple((None,) * self.geometry.kv_heads for _ in self.retain)
        return _held(self.geometry, self.retain, length) / _held(self.geometry, everything, length)

    def windows(self, layer: int) -> tuple[list[int], list[int]]:
        """`sink` and `window` per query head as the kernels take them; -1 reads everything. [H] each"""
        row = self.compute[layer]
        return [s.sink if s else 0 for s in row], [s.recent if s else -1 for s in row]

    def attach(self, model: Model) -> Serving:
        """Serve `model` under this policy until the `with` block ends, or `detach` is called.

        Batches, left padding, `generate`, beam search and chunked prefill work as before; the cache
        holds only what the policy keeps. Within a window, logits are those of the policy's
        attention whatever the chunk size.

        Returns:
            `Serving`.

        Raises:
            HeadscopeError: the policy is for another model, or one is attached already.
        """
        from headscope.heads.serving import Serving

        return Serving(model, self)

    def check(self, model: Model) -> None:
        """Raise HeadscopeError unless this policy was made for `model`."""
        mine, its = self.geometry, model.geometry
        # An imported policy may not know the width of heads, nor the model's own windows.
        shape = [(g.layers, g.heads, g.kv_heads, g.head_dim if mine.head_dim else 0) for g in (mine, its)]
        if shape[0] != shape[1]:
            raise HeadscopeError(
                f"The policy is for {self.model!r} with {_shape(mine)}, but {model.name!r} has {_shape(its)}."
            )
        own = [i for i, row in enumerate(self.retain) if its.windows[i] is not None and any(row)]
        if own:
            raise HeadscopeError(
                f"The policy cuts layer {own[0]}, which has a sliding window of its own in {model.name!r}."
            )
        if self.fingerprint and self.fingerprint != model.fingerprint:
            raise HeadscopeError(
                f"The policy was made for other weights: its fingerprint is {self.fingerprint} "
                f"({self.model!r}), that of {model.name!r} is {model.fingerprint}."
            )


def _union(reads: Sequence[Span]) -> Span:
    windows = [span for span in reads if span is not None]
    if len(windows) < len(reads):
        return None
    return Window(sink=max(w.sink for w in windows), recent=max(w.recent for w in windows))


def _shape(g: Geometry) -> str:
    return f"{g.layers} layers x {g.heads} query and {g.kv_heads} KV heads of width {g.head_dim}"


def _held(g: Geometry, retain: tuple[tuple[Span, ...], ...], length: int) -> int:
    """Keys held for one sequence: what a group keeps, or what its layer's own window leaves."""
    held = 0
    for row, window in zip(retain, g.windows, strict=True):
        limit = min(length, window or math.inf)
        held += sum(int(min(limit, span.keys if span else limit)) for span in row)
    return held
