"""VAR: visual attention redistribution, without training (Kang et al. 2025, arXiv 2503.03321)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from headscope.probes import (
    INTERVENTIONS,
    AttentionCall,
    HeadId,
    HeadscopeError,
    Learned,
    Model,
    Prompt,
    Refused,
    Rows,
    Settings,
    Spec,
)
from headscope.sinks.calibration import weights_at
from headscope.sinks.keykinds import EMPTY, KeyKinds
from headscope.sinks.visual import FACTOR, FIRST_LAYER, SinkDimensions, find_dimensions, threshold


class VarSettings(Settings):
    """Numbers of VAR.

    Attributes:
        min_nonsink_ratio: a head is image-centric in a row, and edited there, if at least this share
            of its image mass lies off the sinks (paper's rho: 0.8, 0.5 against hallucination, 0.9
            where vision is all; the published code asks for at most 1 - rho on the sinks).
        take_fraction: the share of the mass of all sinks, the text's included, that is given to the
            other image tokens (published settings keep 0.6 of it and so take 0.4).
        min_image_mass: and this much of its row must lie on the image.
        factor: tau over the square root of the width; see `headscope.sinks.visual`.
        dims: the sink dimensions; found in the text where none are given.
        level: what is usual there, per layer; found with them.
    """

    min_nonsink_ratio: float = Field(default=0.5, ge=0, le=1)
    take_fraction: float = Field(default=0.4, ge=0, le=1)
    min_image_mass: float = Field(default=0.2, ge=0, le=1)
    factor: float = Field(default=FACTOR, gt=0)
    dims: tuple[int, ...] = ()
    level: tuple[tuple[float, ...], ...] = ()

    def asked(self) -> dict[str, object]:
        return self.model_dump(exclude={"dims", "level"})


def changed(
    weights: Tensor, image: Tensor, sinks: Tensor, settings: VarSettings, kept: Tensor | float = 0.0
) -> Tensor:
    """What VAR adds to attention weights; it sums to 0 in every row.

    Args:
        weights: of heads H in rows R of text, over N keys. [..., H, R, N]
        image: which keys are image tokens. [N], or [..., 1, N] for all heads alike
        sinks: which keys are sinks, text or image; the same shape.
        settings: when to take how much.
        kept: the strength: the share of the change that is left out. [H, 1, 1] or a number
    """
    away = image & ~sinks
    kinds = torch.stack([image, away, sinks], -1).to(weights.dtype)
    mass, free, sunk = (weights @ kinds).split(1, -1)
    centric = (mass >= settings.min_image_mass) & (free >= settings.min_nonsink_ratio * mass) & (free > EMPTY)
    taken = centric * settings.take_fraction * (1 - kept)
    given = taken * sunk / free.clamp_min(EMPTY)
    return weights * (given * away.unsqueeze(-2) - taken * sinks.unsqueeze(-2))


class Redistributed:
    """VAR at work: per layer, what the keys so far are."""

    def __init__(self, spec: Spec, settings: VarSettings, width: int) -> None:
        self.spec, self.settings = spec, settings
        self.dimensions = SinkDimensions(settings.dims, settings.level, threshold(width, settings.factor))
        self._read: dict[int, tuple[int, int]] = {}  # sequences and tokens
        self._fresh: dict[int, Tensor] = {}
        self._keys: dict[int, KeyKinds] = {}
        self._strengths: dict[int, Tensor] = {}

    def inputs(self, layer: int, hidden: Tensor, past: int) -> None:
        """Note which of the tokens that come into a layer are sinks; the keys before are known."""
        batch, tokens, _ = hidden.shape
        if past and self._read.get(layer) != (batch, past):
            raise Refused(f"VAR has to see a prompt from its first token on; layer {layer} begins at {past}.")
        self._read[layer] = batch, past + tokens
        if self.dimensions.dims:
            self._fresh[layer] = self.dimensions.sinks(layer, hidden)

    def instead(self, call: AttentionCall, rows: Rows) -> Tensor | None:
        """A row of text after all others, in few operations."""
        if not self._follows(call, rows) or self._keys[call.layer].idle:
            return None
        keys = self._keys[call.layer]
        keys.follow(self._fresh.pop(call.layer))
        return keys.attend(call, rows.acts)

    def attention(self, call: AttentionCall, rows: Rows) -> Tensor:
        if rows.image is None:
            raise Refused(
                "VAR has to know which tokens are the image's: use a vision-language model, and hand it "
                "token ids, not embeddings."
            )
        if not self.dimensions.dims:
            return call.output
        if self._follows(call, rows) and self._keys[call.layer].idle:
            self._keys[call.layer].follow(self._fresh.pop(call.layer))
            return call.output
        return self._changed(call, rows.image, rows)

    def _follows(self, call: AttentionCall, rows: Rows) -> bool:
        """Whether this is one more token of text, in a layer without soft cap and learned sinks."""
        one = call.q.shape[2] == 1 and not rows.shows and bool(self.dimensions.dims)
        return one and call.softcap is None and call.sinks is None

    def _changed(self, call: AttentionCall, shown: Tensor, rows: Rows) -> Tensor:
        """Any rows: the weights are put together, and what is changed in them is added to the output."""
        queries, s, sinks = call.q.shape[2], self.settings, self._fresh.pop(call.layer)
        if shown.shape[1] > queries:
            sinks = torch.cat([self._keys[call.layer].sinks, sinks], 1)
        kept = self._kept(call)
        gain = s.take_fraction * (1 - kept[:, 0])
        self._keys[call.layer] = KeyKinds.of(shown, sinks, gain, s.min_image_mass, s.min_nonsink_ratio)
        # A sequence without visual sinks stays as it is in this layer.
        text = rows.acts & ~shown[:, -queries:] & (shown & sinks).any(-1, keepdim=True)
        at = text.any(0).nonzero()[:, 0]
        if not len(at):
            return call.output
        held = slice(call.visible.key_offset, call.visible.key_offset + call.k.shape[2])
        change = changed(weights_at(call, at), shown[:, None, held], sinks[:, None, held], s, kept)
        change = change.masked_fill(~text[:, None, at, None], 0.0)
        output = call.output.clone()
        output[:, at] += _over_values(call, change).transpose(1, 2).to(output.dtype)
        return output

    def _kept(self, call: AttentionCall) -> Tensor:
        """How much of the change every head leaves out; all of it where it has no part. [H, 1, 1]"""
        if call.layer not in self._strengths:
            kept = torch.ones(call.q.shape[1])
            for i in self.spec.of_layer(call.layer):
                kept[self.spec.heads[i].head] = self.spec.strengths[i]
            self._strengths[call.layer] = kept[:, None, None].to(call.q.device)
        return self._strengths[call.layer]


def _over_values(call: AttentionCall, weights: Tensor) -> Tensor:
    """What heads put out with these weights. [B, H, R, D] of [B, H, R, N]"""
    batch, heads, count, keys = weights.shape
    grouped = weights.reshape(batch, call.v.shape[1], -1, keys) @ call.v.float()
    return grouped.view(batch, heads, count, -1)


@INTERVENTIONS.register
class Var:
    """In rows of text, heads that look at the image take mass from the sinks and give it to the image
    tokens that are none, in proportion; the strength says how much of that is left out.

    Which heads is found in every row anew: those with enough of their mass on the image, most of it
    off the sinks. Without a choice, all heads are asked but for those of the first two layers and
    the last, as in the paper. Rows of image tokens are never edited, and no row of a layer that has
    no visual sink. Sinks are found token by token as they come, so that chunks, caches and batches
    change nothing.

    The sink dimensions are read off the text of the prompts it learns from, or off prose.
    """

    name = "var"
    summary = "take attention from sinks and give it to the image tokens that show something"
    strength = 0.0
    settings: type[Settings] = VarSettings
    stateful = True

    def learn(
        self,
        model: Model,
        heads: tuple[HeadId, ...] | None,
        prompts: Sequence[Prompt],
        settings: Settings,
        seed: int,
    ) -> Learned:
        assert isinstance(settings, VarSettings)
        if model.vision is None:
            raise Refused(f"VAR redistributes attention to images, and {model.name!r} reads text alone.")
        g = model.geometry
        chosen = heads or tuple(
            HeadId(layer, head) for layer in range(FIRST_LAYER, g.layers - 1) for head in range(g.heads)
        )
        if not chosen:
            raise HeadscopeError(
                f"VAR leaves out the first two layers and the last, and {model.name!r} has {g.layers}; "
                "name heads."
            )
        note = f"sink dimensions {list(settings.dims)} as given"
        if not settings.dims:
            found = find_dimensions(model, prompts, settings.factor)
            settings = settings.model_copy(update={"dims": found.dims, "level": found.level})
            note = f"sink dimensions {list(found.dims)}, found in text; tau {found.tau:.3g}"
            note += "" if found.dims else "; without any, nothing is changed"
        elif not settings.level:
            usual = ((0.0,) * len(settings.dims),) * g.layers
            settings = settings.model_copy(update={"level": usual})
        task = prompts[0].task if prompts else ""
        return Learned(chosen, settings, task=task, prompts=len(prompts), note=note)

    def edit(self, model: Model, spec: Spec, settings: Settings) -> Redistributed:
        assert isinstance(settings, VarSettings)
        return Redistributed(spec, settings, model.geometry.hidden)
