"""What fitting an intervention takes: said before it is begun, and counted while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headscope.app.methodoptions import checked
from headscope.probes import INTERVENTIONS

if TYPE_CHECKING:
    from torch import nn

    from headscope.app.wanted import Wanted
    from headscope.probes import Model

_TEXTS, _TEXT = 8, 256  # of prose, which replacements are taken from
_SHORT = 256  # tokens, more than any question with a passage has
_PATCHED, _TRIED = 48, 8  # prompts that PH3 patches at most; numbers of heads that it tries
_SIZES = (1, 2, 4, 8, 16, 32, 64)  # numbers of heads that ACT tries


@dataclass(frozen=True)
class FitCost:
    """Forward passes, at most, the tokens of one, and what they are for.

    A pass with gradients counts for three.
    """

    passes: int
    tokens: int
    about: str

    def __str__(self) -> str:
        if not self.passes:
            return f"Fitting takes no pass of the model: {self.about}."
        return f"Fitting takes up to {self.passes:,} passes of at most {self.tokens:,} tokens: {self.about}."

    def with_pace(self, seconds: float) -> str:
        """The same with a time, where one pass takes `seconds`."""
        whole = self.passes * seconds
        time = f"{whole:.0f} s" if whole < 100 else f"{whole / 60:.0f} min"
        return f"{self} One takes {seconds:.2f} s here, so {time} at most." if self.passes else str(self)


@contextmanager
def counted(model: Model, cost: FitCost, progress: Callable[[int, int], object]) -> Iterator[None]:
    """Tell `progress` how many of the passes are done while the block lasts, at most that there are.

    A batch counts its prompts; one token that goes on from a cache is no pass.
    """
    done = 0

    def count(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal done
        given = (*args[:1], named.get("input_ids"), named.get("inputs_embeds"))
        inputs = next(x for x in given if x is not None)
        before, done = done, min(done + inputs.shape[0] * (inputs.shape[1] > 1), cost.passes)
        if done > before:
            progress(done, cost.passes)

    handle = model.decoder.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def cost_of(wanted: Wanted) -> FitCost:
    """What fitting takes."""
    settings: Any = checked(INTERVENTIONS[wanted.method], dict(wanted.settings))
    count, length = wanted.learning.count, wanted.learning.length
    if wanted.method in ("mean", "resample"):
        return FitCost(_TEXTS, _TEXT, "texts whose head outputs take the place of these")
    if wanted.heads is not None or wanted.method not in ("act", "ph3", "var"):
        return FitCost(0, 0, "which heads act is known, or decided prompt by prompt")
    if wanted.method == "var":
        return FitCost(min(count, 4) + 1, length, "prompts whose text shows the sink dimensions")
    if wanted.method == "act":
        sizes = sum(size <= settings.screened for size in _SIZES)
        passes = -(-count // 2) * (settings.screened + 4) + count // 2 * (sizes + 1)
        return FitCost(
            passes,
            length,
            f"{settings.screened} heads tried on half of the prompts, sets of them on the other",
        )
    known = count + 2 * min(_PATCHED, count) if settings.k else count + 2 * min(_PATCHED, count // 2)
    tried = 0 if settings.k else 3 * (_TRIED + 1) * (count - count // 2)
    return FitCost(known + tried, _SHORT, "facts asked, heads patched one by one, and numbers of heads tried")
