"""What `prove` found out, as a table: accuracy and loss when a role's heads are ablated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from headscope.heads import intervals
from headscope.heads.storage import check_columns, read_table, write_table
from headscope.probes import BadFile, HeadId

FILE = "causal.parquet"
_COUNTS = ("k", "labelled", "prompts", "draws")
_NUMBERS = (
    *(f"{name}{end}" for name in ("drop", "control_drop", "difference") for end in ("", "_low", "_high")),
    *("control_worst", "control_labelled"),
    *(
        f"{who}{name}{end}"
        for name in ("logprob_drop", "loss_rise")
        for who in ("", "control_")
        for end in ("", "_se")
    ),
)


class ProofMeta(BaseModel):
    """How the causal test of a run was made; stored in the metadata of `causal.parquet`.

    Attributes:
        schema_version: layout of the file.
        model, fingerprint: what was tested.
        method: the ablation, a name in `INTERVENTIONS`.
        positions: the rows in which heads were ablated while answering; on plain text it is all.
        task, length, seed: the prompts; none of them was seen by the scan.
        asked, prompts: how many were tried, and how many of those the untouched model answers
            right, which are the ones tested.
        draws: random head sets per entry.
        texts, text_length: the plain text, windows and tokens in each.
        loss: of the untouched model on it, nats per token.
        versions: versions of the libraries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    model: str
    fingerprint: str
    method: str
    positions: str
    task: str
    length: int
    seed: int
    asked: int
    prompts: int
    draws: int
    texts: int
    text_length: int
    loss: float
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class Proof:
    """The causal test of a run.

    Attributes:
        curves: one row per role and k.
            `heads`: the k heads that rank highest, as text; `labelled` of them carry the label.
            `drop`: share of prompts no longer answered right; exact 95% interval `_low`, `_high`.
            `control_drop`: the same for random heads of the same layers, mean over draws; bootstrap
            over prompts. `control_worst`: the largest of the draws. `control_labelled`: share of
            the control heads that carry the label (layers with too few others).
            `difference`: drop - control_drop; paired bootstrap over prompts.
            `logprob_drop`, `control_logprob_drop`: fall of the answer's log-probability, nats per
            token, with `_se`.
            `loss_rise`, `control_loss_rise`: rise of the loss on plain text, nats per token, with
            `_se` over texts.
            NaN where there is no control, and where all prompts agree so that there is no scatter.
        meta: how it was made.
    """

    curves: pd.DataFrame
    meta: ProofMeta

    def save(self, run: Path) -> None:
        """Write it into a run folder, whole or not at all."""
        write_table(run / FILE, self.curves, self.meta)

    def joined(self, run: Path) -> Proof:
        """With the roles and k's that a test of the same settings has left in a run folder."""
        try:
            earlier = Proof.open(run)
        except BadFile:
            return self
        if earlier.meta != self.meta:
            return self
        own = pd.MultiIndex.from_frame(self.curves[["role", "k"]])
        others = earlier.curves[~pd.MultiIndex.from_frame(earlier.curves[["role", "k"]]).isin(own)]
        return Proof(pd.concat([others, self.curves], ignore_index=True), self.meta)

    @classmethod
    def open(cls, run: Path) -> Proof:
        """Read it from a run folder.

        Raises:
            BadFile: missing or damaged.
        """
        curves, meta = read_table(run / FILE, ProofMeta)
        check_columns(run / FILE, curves, whole=_COUNTS, numbers=_NUMBERS, words=("role", "heads"))
        return cls(curves, meta)


@dataclass(frozen=True)
class HeadSet:
    """Heads that are ablated together: a role's top k, or draw number `draw` of their control."""

    role: str
    k: int
    draw: int | None
    heads: tuple[HeadId, ...]
    labelled: int


@dataclass(frozen=True)
class Outcome:
    """What ablating one set did. P prompts, T texts.

    Attributes:
        wrong: prompts no longer answered right. [P]
        logprob_drop: nats per answer token. [P]
        loss_rise: nats per token. [T]
    """

    wrong: NDArray[np.bool_]
    logprob_drop: NDArray[np.float64]
    loss_rise: NDArray[np.float64]


def curves(sets: Sequence[HeadSet], outcomes: Sequence[Outcome], seed: int) -> pd.DataFrame:
    """The rows of `Proof.curves`, in the order of the sets."""
    rows = []
    for chosen, found in zip(sets, outcomes, strict=True):
        if chosen.draw is None:
            drawn = [
                (s, o)
                for s, o in zip(sets, outcomes, strict=True)
                if (s.role, s.k) == (chosen.role, chosen.k) and s.draw is not None
            ]
            rows.append(_row(chosen, found, drawn, seed))
    return pd.DataFrame(rows)


def _row(
    chosen: HeadSet, found: Outcome, drawn: Sequence[tuple[HeadSet, Outcome]], seed: int
) -> dict[str, object]:
    low, high = intervals.share(found.wrong)
    row: dict[str, object] = {
        "role": chosen.role,
        "k": chosen.k,
        "heads": " ".join(map(str, chosen.heads)),
        "labelled": chosen.labelled,
        "prompts": len(found.wrong),
        "draws": len(drawn),
        "drop": float(found.wrong.mean()),
        "drop_low": low,
        "drop_high": high,
    }
    row |= _control(chosen, found, drawn, seed)
    for name in ("logprob_drop", "loss_rise"):
        values = getattr(found, name)
        row |= {name: float(values.mean()), f"{name}_se": intervals.standard_error(values)}
        control = [getattr(o, name) for _, o in drawn]
        per_prompt = np.mean(control, 0) if control else np.full(len(values), np.nan)
        row |= {
            f"control_{name}": float(per_prompt.mean()),
            f"control_{name}_se": intervals.standard_error(per_prompt),
        }
    return row


def _control(
    chosen: HeadSet, found: Outcome, drawn: Sequence[tuple[HeadSet, Outcome]], seed: int
) -> dict[str, float]:
    wrong = np.array([o.wrong for _, o in drawn], float).reshape(len(drawn), len(found.wrong))
    each = wrong.mean(0) if len(drawn) else np.full(len(found.wrong), np.nan)
    gap = found.wrong - each
    low, high = intervals.mean(each, seed)
    gap_low, gap_high = intervals.mean(gap, seed)
    return {
        "control_drop": float(each.mean()),
        "control_drop_low": low,
        "control_drop_high": high,
        "control_worst": float(wrong.mean(1).max()) if len(drawn) else float("nan"),
        "control_labelled": sum(s.labelled for s, _ in drawn) / (chosen.k * len(drawn))
        if drawn
        else float("nan"),
        "difference": float(gap.mean()),
        "difference_low": gap_low,
        "difference_high": gap_high,
    }
