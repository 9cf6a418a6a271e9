"""What a policy says about itself, in the form that a page about it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headscope.app.announce import gib
from headscope.app.looks import number

if TYPE_CHECKING:
    from headscope.heads import Certificate, HeadMap, Measured, Policy


@dataclass(frozen=True)
class Fact:
    """A number with its name and what stands below it."""

    name: str
    value: str
    about: str = ""


def kept(policy: Policy) -> NDArray[np.bool_]:
    """Which KV groups keep everything. [L, Hkv]"""
    return np.array([[span is None for span in row] for row in policy.retain])


def facts(policy: Policy, headmap: HeadMap | None, length: int) -> list[Fact]:
    """What it keeps and saves, and what that is estimated to cost.

    Args:
        policy: the policy.
        headmap: the map it was made of, for its errors; None where there is none.
        length: tokens in the cache, of 2 bytes a number.
    """
    full = kept(policy)
    found = [Fact("groups that keep everything", f"{full.sum()} of {full.size}", f"{full.mean():.1%}")]
    if policy.geometry.head_dim:
        size = policy.kv_bytes(length)
        share = policy.kv_share(length)
        found.append(
            Fact(
                "keys and values",
                gib(size),
                f"{share:.1%} of {gib(round(size / share))} at {length:,} tokens",
            )
        )
    reads = [span is None for row in policy.compute for span in row]
    found.append(Fact("heads that read everything", f"{sum(reads)} of {len(reads)}"))
    errors = _errors(headmap)
    if errors is not None and not full.all():
        cut = errors[~full]
        where = np.argwhere((errors == np.nanmax(cut)) & ~full)[0]
        found.append(
            Fact(
                "largest error of a cut group", number(float(np.nanmax(cut))),
                f"layer {where[0]}, KV head {where[1]}; share of the layer's attention output",
            )
        )  # fmt: skip
    return found


def _errors(headmap: HeadMap | None) -> NDArray[np.float64] | None:
    from headscope.heads import rank
    from headscope.probes import HeadscopeError

    try:
        return rank(headmap, "error") if headmap is not None else None
    except HeadscopeError:  # a map without errors
        return None


def votes(policies: Mapping[str, Policy]) -> NDArray[np.int64]:
    """How many of the policies keep each KV group whole. [L, Hkv]"""
    return np.asarray(np.sum([kept(p) for p in policies.values()], axis=0))


def certified(certificate: Certificate) -> list[tuple[str, str, str, str]]:
    """What a certificate measured: what, with full attention, under the policy, the difference."""
    rows = [
        (f"{task.task}, answered right", *_three(task.full, task.policy, task.difference))
        for task in certificate.tasks
        if task.length is None and task.depth is None
    ]
    for text in certificate.text:
        name = f"loss on text, {text.length:,} tokens"
        rows.append((name, *_three(text.loss_full, text.loss_policy, text.difference)))
    for cost in certificate.cost:
        at = f"at {cost.length:,} tokens"
        share = cost.kv_bytes_policy / cost.kv_bytes_full if cost.kv_bytes_full else float("nan")
        rows.append(
            (f"keys and values {at}", gib(cost.kv_bytes_full), gib(cost.kv_bytes_policy), f"{share:.1%}")
        )
        rows.append((f"prefill {at}, s", _interval(cost.prefill_full), _interval(cost.prefill_policy), ""))
        rows.append((f"a token {at}, s", _interval(cost.decode_full), _interval(cost.decode_policy), ""))
    return rows


def _three(full: Measured, policy: Measured, difference: Measured) -> tuple[str, str, str]:
    return _interval(full), _interval(policy), _interval(difference)


def _interval(found: Measured) -> str:
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"
