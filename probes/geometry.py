"""The shape of a model's attention: measured on one short forward pass, never assumed."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class Geometry(BaseModel):
    """What a head map or policy needs to know about a model.

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

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    hidden: int
    vocabulary: int
    context: int
    windows: tuple[int | None, ...]

    @property
    def group_size(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads

    def kv_head(self, head: int) -> int:
        """The key/value head that query head `head` reads."""
        return head // self.group_size


@dataclass(frozen=True)
class HeadId:
    """One query head, written `L18H6`."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"
