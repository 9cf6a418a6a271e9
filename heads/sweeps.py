"""Quality against retained KV: several ways to choose a policy, with random heads as the control."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from headscope.heads.storage import check_columns, read_table, write_table

FILE = "sweep.parquet"
_NUMBERS = (
    *("budget", "kv_share", "full_share", "kept", "kept_low", "kept_high", "accuracy"),
    *("logprob_drop", "logprob_drop_se"),
)
ENOUGH = 0.95  # share of full attention's right answers that a usable policy keeps


class SweepMeta(BaseModel):
    """How a sweep was made; stored in the metadata of `sweep.parquet`.

    Attributes:
        schema_version: layout of the file.
        model, fingerprint: what was measured.
        task, length: the prompts.
        asked, right: how many, and how many of them full attention answers right.
        accuracy: of full attention.
        logprob: of full attention's answers, nats, mean over prompts.
        sink, recent: what a streaming group keeps.
        seed: of prompts and random heads.
        versions: versions of the libraries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    model: str
    fingerprint: str
    task: str
    length: int
    asked: int
    right: int
    accuracy: float
    logprob: float
    sink: int
    recent: int
    seed: int
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class Sweep:
    """Quality against memory.

    Attributes:
        points: one row per way of choosing and budget. `by`, `draw` (of random heads, else 0), `budget`,
            `kv_share`, `full_share`; `kept`: share of full attention's right answers still right, exact
            interval `_low`, `_high`; `accuracy`; `logprob_drop`: nats per answer against full
            attention, paired, with `_se`.
        meta: how it was made.
    """

    points: pd.DataFrame
    meta: SweepMeta

    def save(self, run: Path) -> None:
        """Write it into a run folder, whole or not at all."""
        write_table(run / FILE, self.points, self.meta)

    @classmethod
    def open(cls, run: Path) -> Sweep:
        """Read it from a run folder.

        Raises:
            BadFile: missing or damaged.
        """
        points, meta = read_table(run / FILE, SweepMeta)
        check_columns(run / FILE, points, whole=("draw",), numbers=_NUMBERS, words=("by",))
        return cls(points, meta)

    def curve(self, by: str) -> pd.DataFrame:
        """One way's points by rising `kv_share`; random draws averaged."""
        mine = self.points[self.points["by"] == by]
        columns = ["kv_share", "full_share", "kept", "accuracy", "logprob_drop"]
        return mine.groupby("budget", as_index=False)[columns].mean().sort_values("kv_share")

    def knee(self, by: str) -> float | None:
        """Retained share at the knee: where the curve stands highest above the straight line from its
        first to its last point (Satopaa et al. 2011). None for fewer than three points or no gain."""
        curve = self.curve(by)
        x, y = curve["kv_share"].to_numpy(), curve["kept"].to_numpy()
        if len(x) < 3 or x[-1] <= x[0] or y[-1] <= y[0]:
            return None
        above = (y - y[0]) / (y[-1] - y[0]) - (x - x[0]) / (x[-1] - x[0])
        best = int(above.argmax())
        return float(x[best]) if above[best] > 0 else None

    def enough(self, by: str) -> float | None:
        """Smallest retained share from which on at least 95% of the right answers are kept."""
        curve = self.curve(by)
        good = curve["kept"].to_numpy() >= ENOUGH
        tail = np.logical_and.accumulate(good[::-1])[::-1]
        return float(curve["kv_share"][tail].iloc[0]) if tail.any() else None
