"""Mean and resample ablation: a head goes on speaking, but no longer about this text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor

from headscope.probes.errors import BadFile
from headscope.probes.geometry import HeadId
from headscope.probes.intervene import INTERVENTIONS, HeadOutputs, Learned, Settings
from headscope.probes.interventions._blend import blend, head_outputs, named, reference
from headscope.probes.prompts import Prompt
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model


class Bank(Settings):
    """What to put in the place of a head's output.

    It is part of the spec, so that the spec means the same wherever the reference texts are not.

    Attributes:
        rows: how many rows are drawn from the texts, for methods that draw.
        outputs: per row and head of the spec, a value vector. [rows, heads, value_dim]
    """

    rows: int = Field(default=32, ge=1)
    outputs: tuple[tuple[tuple[FiniteFloat, ...], ...], ...] = ()

    def only(self, index: Sequence[int]) -> Bank:
        kept = tuple(tuple(row[i] for i in index) for row in self.outputs)
        return self.model_copy(update={"outputs": kept})

    def asked(self) -> dict[str, Any]:
        return {"rows": self.rows}


class _Replaced:
    """Row p of a sequence takes row p of the bank, and from its beginning again after its end."""

    def __init__(self, model: Model, spec: Spec, settings: Settings) -> None:
        assert isinstance(settings, Bank)
        self.spec = spec
        g = model.geometry
        try:
            self.bank = torch.tensor(settings.outputs).view(-1, len(spec.heads), g.value_dim)
        except (RuntimeError, ValueError) as error:
            raise BadFile(
                f"The {spec.method!r} spec does not hold {g.value_dim} numbers for each of its heads."
            ) from error

    def outputs(self, call: HeadOutputs) -> Tensor:
        bank = self.bank.to(call.z.device)[:, self.spec.of_layer(call.layer)]
        other = bank[call.rows.position % len(bank)]
        return blend(call.z, other, self.spec, call.layer, call.rows.acts)


@INTERVENTIONS.register
class Mean:
    """A head puts out its mean over reference texts, the same in every row.

    Kinder than zero: what the rest of the model has come to expect of the head stays. The mean
    is over all rows of the texts but the first of each.
    """

    name = "mean"
    summary = "replace what heads put out by its mean over reference texts"
    strength = 0.0
    settings: type[Settings] = Bank
    stateful = False

    def learn(
        self,
        model: Model,
        heads: tuple[HeadId, ...] | None,
        prompts: Sequence[Prompt],
        settings: Settings,
        seed: int,
    ) -> Learned:
        chosen, texts = named(heads, self.name), reference(model, prompts, seed)
        total = torch.zeros(len(chosen), model.geometry.value_dim, dtype=torch.float64)
        count = 0
        for text in texts:
            found = head_outputs(model, text, chosen)
            total, count = total + found.double().sum(0), count + len(found)
        mean = (total / count).float()[None]
        return Learned(chosen, _bank(mean), task=texts[0].task, prompts=len(texts))

    def edit(self, model: Model, spec: Spec, settings: Settings) -> _Replaced:
        return _Replaced(model, spec, settings)


@INTERVENTIONS.register
class Resample(Mean):
    """A head puts out what it put out in a random row of another text (Wang et al. 2022).

    `rows` rows are drawn with the seed, in each the same row for all heads, so that heads stay
    consistent with one another; position p of a text takes row p modulo `rows`.
    """

    name = "resample"
    summary = "replace what heads put out by what they put out in random rows of other texts"

    def learn(
        self,
        model: Model,
        heads: tuple[HeadId, ...] | None,
        prompts: Sequence[Prompt],
        settings: Settings,
        seed: int,
    ) -> Learned:
        assert isinstance(settings, Bank)
        chosen, texts = named(heads, self.name), reference(model, prompts, seed)
        generator = torch.Generator().manual_seed(seed)
        which = torch.randint(len(texts), (settings.rows,), generator=generator)
        drawn = []
        for i, text in enumerate(texts):
            count = int((which == i).sum())
            if count:
                found = head_outputs(model, text, chosen)
                drawn.append(found[torch.randint(len(found), (count,), generator=generator)])
        rows = torch.cat(drawn)[torch.randperm(settings.rows, generator=generator)]
        return Learned(chosen, _bank(rows), task=texts[0].task, prompts=len(texts))


def _bank(outputs: Tensor) -> Bank:
    return Bank.model_validate({"rows": len(outputs), "outputs": outputs.tolist()})
