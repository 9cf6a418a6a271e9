"""Row statistics taken down to one number per head and row, for many layers at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial

import torch
from torch import Tensor

from headscope.kernels import RowStatistics, sent
from headscope.probes.contribution import Contribution
from headscope.probes.prompts import Prompt
from headscope.probes.recipe import Watch


@dataclass
class Placed:
    """What follows from a prompt alone, sent once to each device that asks for it."""

    _tensors: dict[tuple[str, torch.device], Tensor] = field(default_factory=dict)

    def get(self, name: str, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
        if (name, device) not in self._tensors:
            self._tensors[name, device] = sent(make(), device)
        return self._tensors[name, device]


@dataclass(frozen=True)
class RowNumbers:
    """One number per head and row of L layers, from the statistics of the same rows in each.

    Attributes:
        prompt: whose rows.
        rows: which of them. [R]
        watch: what was measured.
        offsets: names of the sets of distances back.
        windows: how many last keys a row of each layer sees; None for all of them. [L]
        placed: where tensors made of the above are kept.
        name: of these rows among all that share `placed`.
    """

    prompt: Prompt
    rows: Tensor
    watch: Watch
    offsets: Sequence[str]
    windows: tuple[int | None, ...]
    placed: Placed
    name: str

    def of(self, s: RowStatistics, added: Contribution, typical: Tensor) -> dict[str, Tensor]:
        """Everything `HeadRows` names, layers in the place of sequences. [L, H, R] each

        Args:
            s: statistics, one layer after the other. [L, H, R, ...]
            added: what the heads of these layers add.
            typical: what a single value would add. [L, H]
        """
        offset = s.offset.masked_fill(self._once("first period", s, self._first_period), torch.nan)
        out = {
            "top_mass": s.top_mass[..., 0],
            "lse": s.lse,
            "entropy": s.entropy / self._once(f"log within {self.windows}", s, self._most),
            "activity": added.of_heads(s.output) / typical[..., None],
        }
        for prefix, names, masses in (
            ("first", self.watch.first, s.first), ("recent", self.watch.recent, s.recent),
            ("span", self.prompt.spans, s.span), ("offset", self.offsets, offset),
        ):  # fmt: skip
            out |= {f"{prefix}_{name}": masses[..., i] for i, name in enumerate(names)}
        return out | self._cuts(s, added)

    def _cuts(self, s: RowStatistics, added: Contribution) -> dict[str, Tensor]:
        """What is left, and what goes wrong, in rows that see more than sink and window."""
        out: dict[str, Tensor] = {}
        whole = added.of_all(s.output).clamp_min(1e-12)[:, None]
        for i, (sink, recent) in enumerate(self.watch.keep):
            lost, enough = s.output - s.kept_output[..., i, :], sink + recent
            group = added.of_groups(lost) / whole
            short = self._once(f"short of {enough}", s, partial(torch.le, self.rows + 1, enough))
            for cut, value in (
                ("kept", s.kept_mass[..., i]),
                ("cut_error", added.of_heads(lost) / whole),
                ("group_cut_error", group.repeat_interleave(s.lse.shape[1] // added.groups, 1)),
            ):
                out[f"{cut}_{sink}_{recent}"] = value.masked_fill(short, torch.nan)
        return out

    def _once(self, what: str, s: RowStatistics, make: Callable[[], Tensor]) -> Tensor:
        return self.placed.get(f"{self.name} {what}", s.lse.device, make)

    def _most(self) -> Tensor:
        """ln(visible keys), NaN for a single one. [L, 1, R]"""
        ends = [len(self.prompt) if width is None else width for width in self.windows]
        visible = torch.stack([(self.rows + 1).clamp_max(end) for end in ends])
        return visible.log().masked_fill(visible < 2, torch.nan)[:, None]

    def _first_period(self) -> Tensor:
        """Rows that have seen no more than the first repetition. [R, 1]"""
        return (self.rows <= int(self.prompt.meta.get("period", 0)))[:, None]


def outlined(s: RowStatistics) -> RowStatistics:
    """Without what every key received, which is as long as the text."""
    return replace(s, received=s.lse.new_zeros(*s.lse.shape[:2], 0))


def joined(layers: Sequence[RowStatistics]) -> RowStatistics:
    """Statistics of one sequence in L layers as those of L sequences."""
    if len(layers) == 1:
        return layers[0]
    names = [f.name for f in fields(RowStatistics)]
    return RowStatistics(**{name: torch.cat([getattr(s, name) for s in layers]) for name in names})
