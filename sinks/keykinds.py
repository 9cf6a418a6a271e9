"""What is known of a layer's keys, so that VAR costs little in a step of cached decoding.

Which keys are image tokens and which are sinks is known once the prompt has been read; a step adds one
token of text. Kept as columns of numbers, one product with the weights gives every sum that VAR asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.probes import AttentionCall

EMPTY = 1e-6  # a row with less mass than this on image tokens that are no sinks has nowhere to put it
_HIDDEN = -1e4  # a score that leaves no weight; finite, so that a row that sees nothing has numbers too


@dataclass
class KeyKinds:
    """The keys of one layer. B sequences, N keys so far, H query heads.

    Attributes:
        table: whether a key is an image token; whether it is one off the sinks, less the share of
            image tokens that must be; whether it is one off the sinks; and -1 for sinks. Summed with
            the weights of a row: mass on the image, by how much more of it than necessary lies off
            the sinks, how much does, and what lies on sinks, negative. [B, 4, N]
        text: the columns of a key of text that is no sink, and of one that is. [4, 1] each
        least: what the sums must come to for a head to be edited. [4]
        gain: the share of the mass on sinks that a head gives away. [B, H, 1]
        idle: whether that is 0 for all.
    """

    table: Tensor
    text: tuple[Tensor, Tensor]
    least: Tensor
    gain: Tensor
    idle: bool

    @classmethod
    def of(cls, image: Tensor, sinks: Tensor, gain: Tensor, least_mass: float, ratio: float) -> KeyKinds:
        """Of keys that are known.

        Args:
            image, sinks: which keys are image tokens, and sinks. [B, N]
            gain: the share of the mass on sinks that a head gives away. [H, 1]
            least_mass, ratio: `min_image_mass` and `min_nonsink_ratio` of `VarSettings`.
        """
        kinds = gain.new_tensor([(0, 0, 0, 0), (0, 0, 0, -1), (1, 1 - ratio, 1, 0), (1, -ratio, 0, -1)])
        # A sequence without visual sinks stays as it is in this layer.
        gain = gain * (image & sinks).any(-1)[:, None, None]
        return cls(
            table=kinds[2 * image.long() + sinks].mT, text=(kinds[0, :, None], kinds[1, :, None]),
            least=kinds.new_tensor([least_mass, 0.0, EMPTY, -torch.inf]),
            gain=gain, idle=not bool(gain.any()),
        )  # fmt: skip

    @property
    def sinks(self) -> Tensor:
        """Which keys are sinks. [B, N]"""
        return self.table[:, 3] < 0

    def follow(self, sinks: Tensor) -> None:
        """One more token of text in every sequence, a sink or not. [B, 1]"""
        plain, sink = self.text
        self.table = torch.cat([self.table, torch.where(sinks[..., None], sink, plain)], 2)

    def attend(self, call: AttentionCall, acts: Tensor) -> Tensor:
        """What the heads put out under VAR in the only row of a call, in float32. [B, 1, H, D]

        The weights are changed as by `changed` of `interventions/var`.

        Args:
            call: one row of text, the scores neither soft-capped nor beside learned sinks.
            acts: whether it is to be edited. [B, 1]
        """
        (batch, heads, _, width), (_, groups, keys, _) = call.q.shape, call.k.shape
        q = (call.q.float() * call.scaling).reshape(batch * groups, -1, width)
        k, v = call.k.float().flatten(0, 1), call.v.float().flatten(0, 1)
        scores = torch.bmm(q, k.mT).view(batch, heads, keys)
        mask = call.visible.fused(0, 1)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, 0], _HIDDEN)
        weights, table = scores.softmax(-1), self.table
        if table.shape[2] > keys:  # a sliding cache has dropped some
            table = table[..., call.visible.key_offset :]
        sums = torch.bmm(weights, table.mT)
        free, sunk = sums[..., 2:3].clamp_min(EMPTY), sums[..., 3:]
        taken = self.gain * ((sums >= self.least).all(-1, keepdim=True) & acts[:, None])
        change = torch.addcmul(table[:, 3:], table[:, 2:3], sunk / free, value=-1)
        weights = torch.addcmul(weights, weights * taken, change)
        return torch.bmm(weights.view(batch * groups, -1, keys), v).view(batch, 1, heads, -1)
