"""VHR: heads that a picture moves speak louder (He et al. 2025, ACL)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from headscope.probes import (
    INTERVENTIONS,
    HeadId,
    HeadOutputs,
    HeadscopeError,
    Learned,
    Model,
    Prompt,
    Refused,
    Settings,
    Spec,
    Start,
    outputs_without,
)

_LATE = 14 / 32  # the share of the layers, counted from the last, that the paper reinforces in LLaVA-1.5


class VhrSettings(Settings):
    """Numbers of VHR; its alpha is the spec's strength.

    Attributes:
        layers: where heads are reinforced; none given takes the paper's for LLaVA-1.5, the second
            layer and the last 14 of 32, scaled to the model's depth.
        share: how much of a layer is reinforced at most: the heads above this quantile from the top.
            The paper's, 0.5, is the median. 0 ... 1
        stand: what the picture is compared with: a prompt without image tokens (`removed`: what
            follows moves up), or with all of them alike (`mean`: positions stay).
        drop_outliers: heads that are far above the layer's mean both in divergence and in size are
            not reinforced.
    """

    layers: tuple[NonNegativeInt, ...] = ()
    share: float = Field(default=0.5, ge=0, le=1)
    stand: Literal["removed", "mean"] = "removed"
    drop_outliers: bool = True


def default_layers(depth: int) -> tuple[int, ...]:
    """The second layer and the last 14 of 32, for a model of `depth` layers."""
    late = range(depth - max(1, round(depth * _LATE)), depth)
    return tuple(sorted({min(1, depth - 1), *late}))


def divergence(seen: Tensor, blind: Tensor, drop_outliers: bool = True) -> Tensor:
    """VHD: how far the picture moves each head, in the units of its output. [B, H]

    Args:
        seen: head outputs in the last row of the prompt. [B, H, D]
        blind: the same without the picture. [B, H, D]
        drop_outliers: give 0 to heads that are above the layer's mean by more than a standard
            deviation both in divergence and in the squared norm of `blind`: big, rather than moved.
    """
    found = (seen.float() - blind.float()).norm(dim=-1)
    size = blind.float().square().sum(-1)
    far = [a > a.mean(-1, keepdim=True) + a.std(-1, keepdim=True, correction=0) for a in (found, size)]
    return found.masked_fill(far[0] & far[1], 0.0) if drop_outliers else found


def reinforced(vhd: Tensor, share: float = 0.5) -> Tensor:
    """Which heads of a layer are reinforced: those that the picture moves more than the others. [B, H]

    Args:
        vhd: from `divergence`. [B, H]
        share: see `VhrSettings`; heads that it does not move at all are never among them.
    """
    if share == 1:
        return vhd > 0
    return vhd > vhd.quantile(1 - share, dim=-1, keepdim=True)


class Reinforcing:
    """VHR at work: the heads of every sequence, chosen while its prompt is read."""

    def __init__(self, model: Model, spec: Spec, settings: VhrSettings) -> None:
        self.model, self.spec, self.settings = model, spec, settings
        self._shown: Tensor | None = None  # which prompts have a picture [B]
        self._blind: dict[int, Tensor] = {}
        self._gain: dict[int, Tensor] = {}

    def before(self, start: Start) -> None:
        """Read the prompts without their pictures, in the untouched model."""
        self._shown = None if start.image is None else (start.image & start.prompt).any(1)
        self._blind = outputs_without(
            self.model, start, self.spec.layers, drop=self.settings.stand == "removed"
        )
        self._gain.clear()

    def outputs(self, call: HeadOutputs) -> Tensor:
        if call.layer in self._blind:
            self._gain[call.layer] = self._choose(call)[:, None, :, None].to(call.z.dtype)
        gain = self._gain.get(call.layer)
        if gain is None or call.rows.prompt is None or len(gain) != len(call.z):
            raise Refused(
                "VHR has to see every prompt whole and from its first token on: no chunks, and no cache "
                "from before."
            )
        return torch.where(call.rows.acts[..., None, None], call.z * gain, call.z)

    def _choose(self, call: HeadOutputs) -> Tensor:
        """What the outputs of every head are multiplied by from here on. [B, H]"""
        blind, prompt = self._blind.pop(call.layer), call.rows.prompt
        if prompt is None or bool((call.rows.position[:, -1] < prompt - 1).any()):
            raise Refused("VHR has to see every prompt whole: the first pass ends before the prompt does.")
        last = (call.rows.position == prompt[:, None] - 1).to(torch.uint8).argmax(1)
        vhd = divergence(call.z[torch.arange(len(last)), last], blind, self.settings.drop_outliers)
        if self._shown is not None:  # without a picture the two readings differ by rounding only
            vhd = vhd * self._shown[:, None]
        alpha = torch.ones(call.z.shape[2], device=call.z.device)
        for i in self.spec.of_layer(call.layer):
            alpha[self.spec.heads[i].head] = self.spec.strengths[i]
        return torch.where(reinforced(vhd, self.settings.share), alpha, 1.0)


@INTERVENTIONS.register
class Vhr:
    """Heads that the picture moves more than the median of their layer count for more: their outputs
    are multiplied by the strength, the paper's alpha.

    Which heads is decided for every prompt by itself, in the row that writes the first token, layer
    by layer from below, so that higher layers are judged with the lower ones reinforced; the heads
    then stay. What they are compared with is the untouched model reading the prompt without its
    picture. Which heads may be chosen is the spec's to say; without a choice all of `layers`.

    Other than in the paper, rows of the prompt can be left alone (positions `generated`). A prompt
    without a picture is left alone.
    """

    name = "vhr"
    summary = "reinforce, prompt by prompt, the heads that the picture moves"
    strength = 2.0
    settings: type[Settings] = VhrSettings
    stateful = True

    def learn(
        self,
        model: Model,
        heads: tuple[HeadId, ...] | None,
        prompts: Sequence[Prompt],
        settings: Settings,
        seed: int,
    ) -> Learned:
        assert isinstance(settings, VhrSettings)
        g = model.geometry
        if model.vision is None:
            raise Refused(f"VHR reinforces what pictures say, and {model.name!r} reads text alone.")
        if max(settings.layers, default=0) >= g.layers:
            raise HeadscopeError(
                f"layers is {list(settings.layers)}; {model.name!r} has the layers 0 to {g.layers - 1}."
            )
        layers = tuple(sorted(set(settings.layers))) or default_layers(g.layers)
        if heads is None:
            heads = tuple(HeadId(layer, head) for layer in layers for head in range(g.heads))
        note = f"heads are chosen among these for every prompt; the picture {settings.stand} for comparison"
        return Learned(heads, settings.model_copy(update={"layers": layers}), note=note)

    def edit(self, model: Model, spec: Spec, settings: Settings) -> Reinforcing:
        assert isinstance(settings, VhrSettings)
        return Reinforcing(model, spec, settings)
