"""Labels: explicit conditions on score columns, stored beside the scores they judge."""

from __future__ import annotations

from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict


class Condition(BaseModel):
    """`column` compared with `threshold`.

    Attributes:
        column: a score, or a column of numbers that is none (`dormant_kinds`).
        op: `>=` or `<=`.
        threshold: in the units of the column.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    op: Literal[">=", "<="]
    threshold: float

    def holds(self, frame: pd.DataFrame) -> pd.Series:
        """Whether each head meets the condition; an undefined score never does."""
        score = frame[self.column]
        return score.ge(self.threshold) if self.op == ">=" else score.le(self.threshold)

    def __str__(self) -> str:
        return f"{self.column} {self.op} {self.threshold:g}"


class Rule(BaseModel):
    """A head has `role` when every condition holds.

    Attributes:
        role: the role's name; its label column is `is_<role>`.
        score: the column that ranks heads within the role.
        all_of: the conditions.
        source: where the definition and the thresholds come from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    score: str
    all_of: tuple[Condition, ...]
    source: str = ""

    @property
    def column(self) -> str:
        return f"is_{self.role}"

    def apply(self, frame: pd.DataFrame) -> pd.Series:
        """The label of every head."""
        label = pd.Series(True, index=frame.index)
        for condition in self.all_of:
            label &= condition.holds(frame)
        return label

    def __str__(self) -> str:
        return " and ".join(str(condition) for condition in self.all_of)
