"""The whole exam: plant, scan, grade."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from headscope.heads.exam.grading import UNIFORM, Grade, grade
from headscope.heads.presets import Portion, Preset
from headscope.heads.scan import Progress, scan
from headscope.probes import (
    PLANTED,
    load,
    plant,
    planted_haystack,
    planted_truth,
    unknown,
    write_planted,
)  # fmt: skip

EXAM = Preset(
    name="exam", about="for the exam: every role on models with planted heads", context=768,
    portions=(
        Portion(task="needle", fractions=(1.0,), per_length=6),
        Portion(task="passkey", fractions=(0.5,), per_length=2),
        Portion(task="repeat", fractions=(0.5,), per_length=2),
        Portion(task="prose", fractions=(1.0,), per_length=2),
        Portion(task="code", fractions=(0.5,), per_length=2),
        Portion(task="random", fractions=(0.25,), per_length=2),
    ),
)  # fmt: skip


class Examination(BaseModel):
    """How every detector did.

    Attributes:
        grades: by model and role.
        answered: share of prompts answered right, by model and task.
        ungraded: roles that a map labels and no planted head has. Roles that no prompt of the exam
            can show, such as those of heads that look at pictures, are none of them.
        seed: of prompts and row samples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grades: tuple[Grade, ...]
    answered: dict[str, dict[str, float]]
    ungraded: tuple[str, ...]
    seed: int

    @property
    def passed(self) -> bool:
        """Whether every role of every model was found exactly, and none was left ungraded."""
        return all(grade.passed for grade in self.grades) and not self.ungraded


def examine(
    models: Sequence[str] = (),
    *,
    write: str | os.PathLike[str] | None = None,
    preset: Preset = EXAM,
    seed: int = 0,
    progress: Callable[[str, Progress], None] | None = None,
) -> Examination:
    """Scan planted models and grade every label against what their weights were set to do.

    Args:
        models: names of planted models; all of them by default.
        write: folder to write all planted models to, which are then read back from there.
        preset: what the scan shows them.
        seed: seed of prompts and row samples.
        progress: called with the model's name after every part of its scan.

    Raises:
        UnknownName: there is no such planted model.
    """
    for name in models:
        if name not in PLANTED:
            raise unknown("planted model", name, PLANTED)
    if write:
        write_planted(write)
    grades: list[Grade] = []
    answered = {}
    labels = {UNIFORM.role}
    for name in models or PLANTED:
        model = load(Path(write) / name, device="cpu", dtype="float32") if write else plant(name)
        headmap = scan(
            model, preset, haystack=planted_haystack(), seed=seed,
            progress=partial(progress, name) if progress else None,
        )  # fmt: skip
        grades += grade(headmap, planted_truth(name))
        answered[name] = headmap.meta.accuracy
        labels |= set(headmap.roles)
    planted = {g.role for g in grades if g.planted}
    return Examination(
        grades=tuple(grades), answered=answered, ungraded=tuple(sorted(labels - planted)), seed=seed
    )
