"""Checkpoints of one model along its training: which there are, and after how many steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from headscope.probes.errors import HeadscopeError, unknown
from headscope.probes.files import home_path

_WEIGHTS = Path(__file__).parent / "toys" / "weights"

# Models that the project ships with a folder for every checkpoint of their training.
TRAINED = {"bigram-backcopy": _WEIGHTS / "bigram-backcopy"}


@dataclass(frozen=True)
class Checkpoint:
    """One state of a model.

    Attributes:
        step: training steps it has seen.
        source: what `load` takes.
    """

    step: int
    source: str


def checkpoints(sources: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints that `sources` name, in the order of their steps.

    Args:
        sources: a name of a shipped model with checkpoints, a folder with one model folder for
            each, or all of them one by one. The step is the last number in each one's name.

    Raises:
        UnknownName: neither such a name nor a folder.
        HeadscopeError: no checkpoints, one without a number in its name, or two of the same step.
    """
    found = sources if len(sources) > 1 else _inside(sources[0])
    made = sorted((Checkpoint(_step(s), s) for s in found), key=lambda c: c.step)
    for a, b in pairwise(made):
        if a.step == b.step:
            raise HeadscopeError(f"Both {a.source!r} and {b.source!r} are checkpoints of step {a.step}.")
    return made


def shipped(name: str) -> Path | None:
    """The folder of a shipped checkpoint, `<model>@<step>`; None for any other name.

    Raises:
        UnknownName: the model is shipped, but not after that many steps.
    """
    model, _, step = name.partition("@")
    if model not in TRAINED or not step:
        return None
    known = {f"{model}@{_step(f.name)}": f for f in TRAINED[model].iterdir() if f.is_dir()}
    if name not in known:
        raise unknown("checkpoint", name, known)
    return known[name]


def _inside(source: str) -> list[str]:
    """The model folders in a folder."""
    if source in TRAINED:
        return [f"{source}@{_step(f.parent.name)}" for f in TRAINED[source].glob("*/config.json")]
    folder = home_path(source)
    if not folder.is_dir():
        raise unknown("model with checkpoints, or folder of them", source, TRAINED)
    found = sorted(str(f.parent) for f in folder.glob("*/config.json"))
    if not found:
        raise HeadscopeError(
            f"The folder {source!r} holds no checkpoints: none of its folders has a config.json."
        )
    return found


def _step(source: str) -> int:
    numbers = re.findall(r"\d+", Path(source).name)
    if not numbers:
        raise HeadscopeError(
            f"The checkpoint {source!r} has no number in its name that says its step, as in 'step-1000'."
        )
    return int(numbers[-1])
