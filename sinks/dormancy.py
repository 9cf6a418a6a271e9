"""Text kinds, and how a head behaves on each (Guo et al. 2024, active-dormant heads).

A head is dormant on an input when its rows rest on the sink and what it adds is negligible,
because the sink's value is drained. The same head can be awake on another kind of text.
"""

from __future__ import annotations

from collections.abc import Sequence

from headscope.probes import Estimate, Observation, over_prompts


def kind_of(seen: Observation) -> str:
    """The kind of text of a prompt: `prose`, `code`, `random`, `repeated`; the task's name otherwise."""
    return str(seen.prompt.meta.get("kind", seen.prompt.task))


def kinds(seen: Sequence[Observation]) -> dict[str, list[Observation]]:
    """Prompts without an answer, by kind of text, in order of first appearance."""
    groups: dict[str, list[Observation]] = {}
    for o in seen:
        if o.prompt.answer is None:
            groups.setdefault(kind_of(o), []).append(o)
    return groups


def on_kind(seen: Sequence[Observation], statistic: str) -> Estimate:
    """Mean of a sampled statistic over the prompts of one kind, with its standard error. [L, H]"""
    return over_prompts([o.mean[statistic] for o in seen], [o.var[statistic] for o in seen])
