"""What an intervention on a vision-language model has to be compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headscope.heads.effect import control
from headscope.probes import HeadId, Model, Source, Spec, fit

Arms = dict[str, list[tuple[Spec, ...]]]
"""Sets of specs by what they are called; those of one arm are averaged over."""


def arms_of(
    model: Model, specs: Sequence[Spec], *, draws: int = 2, strengths: Sequence[float] = (), seed: int = 0
) -> Arms:
    """The arms of an evaluation, the untouched model first.

    Args:
        model: the model.
        specs: interventions; alone, and together if there are several.
        draws: random head sets, for interventions that choose heads.
        strengths: further strengths to try, of every spec.
        seed: of the draws.

    Returns:
        `untouched`; every method under its name; `both` (or `all`) together; and of every method
        `… opposite`, `… random` (where there are random heads to be had), and `… at STRENGTH`.
    """
    found: Arms = {"untouched": [()]}
    names = _names(specs)
    found |= {name: [(spec,)] for name, spec in zip(names, specs, strict=True)}
    if len(specs) > 1:
        found["both" if len(specs) == 2 else "all"] = [tuple(specs)]
    for name, spec in zip(names, specs, strict=True):
        found[f"{name} opposite"] = [(spec.opposite(),)]
        drawn = [r for i in range(draws) if (r := elsewhere_at_random(model, spec, [seed, i]))]
        found |= {f"{name} random": [(r,) for r in drawn]} if drawn else {}
        found |= {f"{name} at {s:g}": [(spec.with_strength(s),)] for s in strengths}
    return found


def elsewhere_at_random(model: Model, spec: Spec, seed: Sequence[int]) -> Spec | None:
    """The same change on random heads of the same layers; None where a layer has too few.

    For VHR, which chooses anew for every prompt: as many heads as it may choose, the same for all.
    """
    if spec.method != "vhr":
        return control(model, spec, (), list(seed))
    rng, share = np.random.default_rng(list(seed)), float(str(spec.settings["share"]))
    chosen: list[HeadId] = []
    for layer in spec.layers:
        mine = [spec.heads[i] for i in spec.of_layer(layer)]
        chosen += [mine[i] for i in sorted(rng.permutation(len(mine))[: int(share * len(mine))])]
    if not chosen:
        return None
    return fit(
        model, "scale", heads=chosen, strength=spec.strengths[0], positions=spec.positions,
        source=Source(note=f"random heads, seed {list(seed)}"),
    )  # fmt: skip


def _names(specs: Sequence[Spec]) -> list[str]:
    """The methods, numbered where one comes twice."""
    methods = [spec.method for spec in specs]
    return [m if methods.count(m) == 1 else f"{m} {methods[: i + 1].count(m)}" for i, m in enumerate(methods)]
