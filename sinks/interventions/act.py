"""ACT: attention calibration of hidden sinks, without training (Yu et al. 2024, arXiv 2406.15765)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from headscope.probes import (
    INTERVENTIONS,
    AttentionCall,
    HeadId,
    Learned,
    Model,
    Prompt,
    Refused,
    Rows,
    Settings,
    Spec,
)
from headscope.sinks.calibration import SinkRule, Tally, shift
from headscope.sinks.selection import choose_heads


class ActSettings(Settings):
    """Numbers of ACT.

    Attributes:
        alpha: a sink has received this many times the mass of uniform attention (paper: 5).
        least: and at least this mean mass (published code: 0.1 alone). 0 ... 1
        min_queries: and has been seen by this many rows.
        freeze: generated rows keep the sinks of the prompt.
        screened: how many heads are tried exactly, out of all, when the method chooses.
    """

    alpha: float = Field(default=5.0, gt=0)
    least: float = Field(default=0.0, ge=0, le=1)
    min_queries: int = Field(default=16, ge=1)
    freeze: bool = True
    screened: int = Field(default=16, ge=1)

    @property
    def rule(self) -> SinkRule:
        return SinkRule(self.alpha, self.least, self.min_queries)


class Calibrated:
    """ACT at work: per layer and sequence, a tally of what every key has received."""

    def __init__(self, spec: Spec, settings: ActSettings) -> None:
        self.spec, self.settings = spec, settings
        self._tallies: dict[int, list[Tally]] = {}

    def attention(self, call: AttentionCall, rows: Rows) -> Tensor:
        index = self.spec.of_layer(call.layer)
        heads = [self.spec.heads[i].head for i in index]
        gone = torch.tensor([1 - self.spec.strengths[i] for i in index], device=call.q.device)
        tallies, output = self._tally(call, len(heads)), call.output.clone()
        for b, tally in enumerate(tallies):
            real = (rows.position[b] >= 0).nonzero()[:, 0]
            if not len(real):
                continue
            change = shift(call, b, heads, real, tally, self.settings.rule, self._end(rows, b))
            change = change * gone[:, None] * rows.acts[b, real][:, None, None]
            mine = output[b, real][:, heads] + change.to(output.dtype)
            output[b, real[:, None], torch.tensor(heads, device=real.device)] = mine
        return output

    def _end(self, rows: Rows, b: int) -> int | None:
        if not self.settings.freeze:
            return None
        if rows.prompt is None:
            raise Refused(
                "ACT keeps the sinks of the prompt, and where that ends is not known: say how many tokens "
                "it has with applied(..., prompt=n), or fit with freeze=False."
            )
        return int(rows.prompt[b])

    def _tally(self, call: AttentionCall, heads: int) -> list[Tally]:
        batch = call.q.shape[0]
        if call.visible.query_offset == 0:
            self._tallies[call.layer] = [Tally.empty(heads, call.q.device) for _ in range(batch)]
        found = self._tallies.get(call.layer, [])
        if len(found) != batch:
            raise Refused(
                f"ACT has to see a prompt from its first token on, and layer {call.layer} got "
                f"{batch} sequences that begin at token {call.visible.query_offset}."
            )
        return found


@INTERVENTIONS.register
class Act:
    """Selected heads look away from hidden sinks: their mass there is scaled by the strength beta,
    and what is freed goes to the other keys in proportion.

    Other than the published code: sinks are judged against uniform attention, so that short
    prompts are not all sinks; without a sink on the first token no other is spared; cached
    decoding edits the new rows only, by the prompt's sinks; chunks, batches and padding change
    nothing.

    Chooses heads by itself on prompts with answers: see `choose_heads`.
    """

    name = "act"
    summary = "take attention from hidden sinks and give it to the other tokens"
    strength = 0.4
    settings: type[Settings] = ActSettings
    stateful = True

    def learn(
        self,
        model: Model,
        heads: tuple[HeadId, ...] | None,
        prompts: Sequence[Prompt],
        settings: Settings,
        seed: int,
    ) -> Learned:
        assert isinstance(settings, ActSettings)
        if heads:
            return Learned(heads, settings)
        found = choose_heads(model, prompts, self.name, settings, self.strength, settings.screened, seed)
        return Learned(found.heads, settings, task=prompts[0].task, prompts=len(prompts), note=found.sentence)

    def edit(self, model: Model, spec: Spec, settings: Settings) -> Calibrated:
        assert isinstance(settings, ActSettings)
        return Calibrated(spec, settings)
