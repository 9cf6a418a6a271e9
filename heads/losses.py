"""What a format cannot hold of a policy, and how much error its loss adds.

A policy ranked by error knows what each KV group costs when it is cut: the relative change of
its layer's attention output. The errors of groups cut in one layer add at most (triangle inequality),
so their sum bounds what the layer loses; a format's added error is that of its worst layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from headscope.heads.policy import Policy, Span, Window
from headscope.heads.ranking import DEFAULT

GroupId: TypeAlias = tuple[int, int]  # layer, KV head
Rounding: TypeAlias = Literal["all", "most", "any"]
_MEASURED = DEFAULT


@dataclass(frozen=True)
class Loss:
    """One thing that a format cannot hold.

    Attributes:
        what: the thing, as a sentence without its full stop.
        error: what losing it adds, as a share of the attention output of the layer that suffers most,
            an upper bound; 0 where nothing is lost but savings, None where no number is known.
        layer: that layer.
    """

    what: str
    error: float | None = 0.0
    layer: int | None = None

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.what}; how much error that adds is unknown."
        if self.error == 0:
            return f"{self.what}; that adds no error."
        return (
            f"{self.what}; that adds at most {self.error:.3g} of the attention output of layer {self.layer}."
        )


def cut_loss(policy: Policy, cut: Iterable[tuple[GroupId, Window]], what: str) -> Loss:
    """The loss of cutting groups that the policy keeps whole to the given windows.

    Known where the policy was ranked by an error that was measured with no larger windows.
    """
    by_layer: dict[int, float] = {}
    ranked = policy.origin.by == "error" or "cut_error" in policy.origin.by
    for (layer, head), window in cut:
        score = policy.scores[layer][head] if policy.scores else None
        smaller = window.sink < _MEASURED.sink or window.recent < _MEASURED.recent
        if score is None or not ranked or smaller:
            return Loss(what, None)
        by_layer[layer] = by_layer.get(layer, 0.0) + score
    worst = max(by_layer, key=by_layer.__getitem__, default=None)
    return Loss(what) if worst is None else Loss(what, by_layer[worst], worst)


def one_window(policy: Policy) -> tuple[Window, list[Loss]]:
    """The smallest window that holds every group's, for formats that know one size.

    A policy under which nothing streams gets headscope's usual one, which nothing then uses.
    """
    windows = [span for row in policy.retain for span in row if span]
    if not windows:
        return _MEASURED, []
    joint = _joint(windows)
    grown = sum(w != joint for w in windows)
    text = f"The common window of {joint.sink} + {joint.recent} keys is larger than that of"
    return joint, [Loss(f"{text} {counted(grown, 'KV group')}")] if grown else []


def compute_loss(policy: Policy) -> list[Loss]:
    """The loss of everything that single query heads skip beyond their group."""
    group = policy.geometry.kv_head
    more = sum(
        span != policy.retain[layer][group(head)]
        for layer, row in enumerate(policy.compute)
        for head, span in enumerate(row)
    )
    text = "Query heads read all that their KV group keeps, more than is needed by"
    return [Loss(f"{text} {counted(more, 'query head')}")] if more else []


def per_layer(policy: Policy, rounding: Rounding) -> tuple[list[Span], list[Loss]]:
    """One span per layer, for formats without heads.

    Args:
        policy: the policy.
        rounding: a layer streams when `all`, at least half (`most`) or `any` of its KV groups do.

    Returns:
        Per layer the window that holds those of its streaming groups, or None; and what is lost.
    """
    spans: list[Span] = []
    cut: list[tuple[GroupId, Window]] = []
    kept = 0
    for layer, row in enumerate(policy.retain):
        windows = [w for w in row if w]
        need = {"all": len(row), "most": (len(row) + 1) // 2, "any": 1}[rounding]
        if len(windows) < need:
            spans.append(None)
            kept += len(windows)
        else:
            spans.append(joint := _joint(windows))
            cut += [((layer, j), joint) for j, span in enumerate(row) if span is None]
    losses = []
    if kept:
        losses.append(
            Loss(f"Kept whole, since their layer is: {counted(kept, 'KV group')} that could stream")
        )
    if cut:
        why = {"all": "all", "most": "most", "any": "some"}[rounding]
        text = (
            f"Cut, since {why} of their layer's stream: {counted(len(cut), 'KV group')} that keep everything"
        )
        losses.append(cut_loss(policy, cut, text))
    grown = sum(bool(w and s and w != s) for row, s in zip(policy.retain, spans, strict=True) for w in row)
    if grown:
        losses.append(Loss(f"The window of their layer is larger than that of {counted(grown, 'KV group')}"))
    return spans, losses


def counted(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _joint(windows: list[Window]) -> Window:
    return Window(sink=max(w.sink for w in windows), recent=max(w.recent for w in windows))
