"""Policies and their certificates as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.text import Text

from headscope.app.looks import number
from headscope.app.sweep import HEADERS, about, cells, way
from headscope.app.tables import plain_table

if TYPE_CHECKING:
    from headscope.heads import Measured, Policy, Sweep

_LENGTHS = (4096, 32768, 131072)  # tokens at which the share of the KV bytes is told


def describe(policy: Policy) -> str:
    """What a policy keeps, as a sentence or two."""
    g = policy.geometry
    groups = [span for row in policy.retain for span in row]
    full = sum(span is None for span in groups)
    windows = sorted({f"{s.sink} + {s.recent}" for s in groups if s is not None})
    fitting = [n for n in _LENGTHS if n <= (g.context or n)] or [g.context]
    shares = ", ".join(f"{policy.kv_share(n):.0%} at {n:,}" for n in fitting)
    kept = f"the others {' or '.join(windows)}" if windows else "none streams"
    return (
        f"{policy.model}: {full} of {len(groups)} KV groups keep everything, {kept}. "
        f"KV bytes kept: {shares} tokens. Ranked by: {way(policy.origin.by)}."
    )


def policy_map(policy: Policy) -> Text:
    """One line per layer, one block per KV group: full ones solid."""
    text = Text()
    for layer, row in enumerate(policy.retain):
        text.append(f"{layer:>4} ", style="dim")
        for span in row:
            text.append("█" if span is None else "·")
        text.append("\n" if layer % 4 == 3 else "  ")
    return text


def print_policy(console: Console, policy: Policy) -> None:
    """What a policy keeps, and its certificate if it has one."""
    console.print(describe(policy), markup=False)
    console.print(policy_map(policy))
    console.print("One block per KV group: █ keeps everything, · sink + recent.", markup=False)
    if policy.certificate:
        print_certificate(console, policy)


def print_certificate(console: Console, policy: Policy) -> None:
    """What was measured, every number with its interval."""
    found = policy.certificate
    assert found is not None
    quality = plain_table(
        "Right answers", "task", "tokens", "depth", "full", "policy", "kept of full's", "difference"
    )
    for q in found.tasks:
        where = "all" if q.length is None else f"{q.length:,}"
        depth = "all" if q.depth is None else f"{q.depth:.0%} … {q.depth + 0.25:.0%}"
        kept = interval(q.kept, "%") if q.kept else "–"
        cells = interval(q.full, "%"), interval(q.policy, "%"), kept, interval(q.difference, "%")
        quality.add_row(*map(Text, (q.task, where, depth, *cells)))
    console.print(quality)
    if found.text:
        text = plain_table(
            "Plain text, nats per token", "tokens", "KL", "loss, full", "loss, policy", "difference"
        )
        for t in found.text:
            losses = (interval(x) for x in (t.kl, t.loss_full, t.loss_policy, t.difference))
            text.add_row(*map(Text, (f"{t.length:,}", *losses)))
        console.print(text)
    if found.cost:
        cost = plain_table("Memory and time", "tokens", "KV MiB", "prefill s", "per token ms", "")
        for c in found.cost:
            for name, held, prefill, decode in (
                ("full", c.kv_bytes_full, c.prefill_full, c.decode_full),
                ("policy", c.kv_bytes_policy, c.prefill_policy, c.decode_policy),
            ):
                times = interval(prefill), interval(decode, scale=1e3)
                cost.add_row(*map(Text, (f"{c.length:,}", f"{held / 2**20:.1f}", *times, name)))
        console.print(cost)
    console.print(
        f"95% intervals; {found.device}, {found.dtype}, {found.made}, seed {found.seed}. Answers are exact: "
        "greedy decoding must give every token.",
        markup=False,
    )


def interval(found: Measured, unit: str = "", scale: float = 1.0) -> str:
    """A number with its 95% interval."""
    if unit == "%":
        return f"{found.value:.0%} ({found.low:.0%} … {found.high:.0%})"
    return " ".join(
        (number(found.value * scale), f"({number(found.low * scale)} … {number(found.high * scale)})")
    )


def disagreement(policies: dict[str, Policy]) -> tuple[list[list[str]], list[tuple[int, int, list[str]]]]:
    """Where policies differ.

    Returns:
        For each pair its names, the share of KV groups treated alike, and the overlap of the full
        ones (Jaccard); and every group on which they differ, with those that keep it full.
    """
    full = {n: np.array([[s is None for s in row] for row in p.retain]) for n, p in policies.items()}
    names = list(full)
    pairs = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            either = (full[a] | full[b]).sum()
            overlap = (full[a] & full[b]).sum() / either if either else 1.0
            pairs.append([a, b, f"{(full[a] == full[b]).mean():.0%}", f"{overlap:.2f}"])
    stacked = np.stack(list(full.values()))
    at = np.argwhere(stacked.any(0) & ~stacked.all(0))
    return pairs, [(int(i), int(g), [n for n in names if full[n][i, g]]) for i, g in at]


def print_disagreement(console: Console, policies: dict[str, Policy]) -> None:
    """Pairs, then the groups they disagree on."""
    pairs, groups = disagreement(policies)
    table = plain_table("Agreement of policies", "a", "b", "groups alike", "overlap of full ones")
    for row in pairs:
        table.add_row(*map(Text, row))
    console.print(table)
    listed = plain_table("KV groups they differ on", "group", "kept full by")
    for layer, group, names in groups:
        listed.add_row(f"L{layer} KV{group}", Text(", ".join(names)))
    console.print(listed)


def print_sweep(console: Console, sweep: Sweep) -> None:
    """All points, how they were made, and where the curves bend."""
    table = plain_table(f"{sweep.meta.model}: quality against retained KV", *HEADERS)
    for _, row in sweep.points.iterrows():
        table.add_row(*map(Text, cells(row)))
    console.print(table)
    console.print(about(sweep), markup=False)
