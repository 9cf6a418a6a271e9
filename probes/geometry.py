"""The shape of a model's attention: measured on one short forward pass, never assumed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator

from headscope.probes.errors import HeadscopeError


class Geometry(BaseModel):
    """What a head map or policy needs to know about a model.

    Maps imported from elsewhere know `layers`, `heads` and `kv_heads`; the other numbers are 0 there.

    Attributes:
        layers: number of decoder layers.
        heads: query heads per layer.
        kv_heads: key/value heads per layer; `heads // kv_heads` query heads share one.
        head_dim: width of one query head (may differ from hidden / heads).
        value_dim: width of one value head.
        hidden: width of the residual stream.
        vocabulary: number of output tokens.
        context: longest sequence the model was built for, in tokens.
        windows: per layer, how many last keys a query sees; None for all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: NonNegativeInt
    value_dim: NonNegativeInt
    hidden: NonNegativeInt
    vocabulary: NonNegativeInt
    context: NonNegativeInt
    windows: tuple[PositiveInt | None, ...]

    @model_validator(mode="after")
    def _fits(self) -> Geometry:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} KV heads")
        if len(self.windows) != self.layers:
            raise ValueError(f"windows must have one entry for each of {self.layers} layers")
        return self

    @property
    def group_size(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads

    def kv_head(self, head: int) -> int:
        """The key/value head that query head `head` reads."""
        return head // self.group_size

    def has(self, head: HeadId) -> bool:
        """Whether there is such a head."""
        return 0 <= head.layer < self.layers and 0 <= head.head < self.heads


@dataclass(frozen=True, order=True)
class HeadId:
    """One query head, written `L18H6`."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def parse(cls, name: str) -> HeadId:
        """Read `L18H6`.

        Raises:
            HeadscopeError: written differently.
        """
        found = re.fullmatch(r"L([0-9]{1,6})H([0-9]{1,6})", name.strip(), re.IGNORECASE)
        if not found:
            raise HeadscopeError(f"{name!r} is not a head; heads are written like L18H6 (layer 18, head 6).")
        return cls(int(found[1]), int(found[2]))
