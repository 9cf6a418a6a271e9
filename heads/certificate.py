"""What a policy costs and saves, measured against full attention on the same prompts."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Measured(BaseModel):
    """A number with its 95% interval.

    Attributes:
        value: the estimate.
        low, high: the interval.
        count: prompts, token windows or repetitions behind it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    count: int


class TaskQuality(BaseModel):
    """Accuracy on one task.

    Attributes:
        task: its name.
        length: prompt length in tokens; None over all lengths.
        depth: the quarter of the text in which the fact stands, by where it begins (0, 0.25, 0.5 or
            0.75); None over all depths.
        full, policy: share of prompts answered right, exact intervals.
        kept: of the prompts that full attention answers right, the share the policy also does.
        difference: policy - full over the same prompts, in accuracy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    length: int | None = None
    depth: float | None = None
    full: Measured
    policy: Measured
    kept: Measured | None
    difference: Measured


class TextQuality(BaseModel):
    """Language modelling on natural text.

    Attributes:
        length: window length in tokens.
        kl: KL(full || policy) of next-token distributions, nats per token.
        loss_full, loss_policy: cross-entropy, nats per token; perplexity is exp of it.
        difference: policy - full, paired over windows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int
    kl: Measured
    loss_full: Measured
    loss_policy: Measured
    difference: Measured


class Cost(BaseModel):
    """Memory and time at one length, batch 1.

    Attributes:
        length: tokens in the cache.
        kv_bytes_full, kv_bytes_policy: bytes of keys and values, as held by the caches.
        prefill_full, prefill_policy: seconds for the whole prompt.
        decode_full, decode_policy: seconds per generated token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int
    kv_bytes_full: int
    kv_bytes_policy: int
    prefill_full: Measured
    prefill_policy: Measured
    decode_full: Measured
    decode_policy: Measured


class Certificate(BaseModel):
    """What `verify` found.

    Attributes:
        made: UTC time, ISO 8601.
        device, dtype, versions: what it was measured on.
        seed: seed of prompts and bootstraps.
        tasks: accuracy, over everything and per cell.
        text: language modelling.
        cost: memory and time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    made: str
    device: str
    dtype: str
    versions: dict[str, str]
    seed: int
    tasks: tuple[TaskQuality, ...] = ()
    text: tuple[TextQuality, ...] = ()
    cost: tuple[Cost, ...] = ()
