"""Random heads to compare chosen ones with: of the same layers, and none of the chosen kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from headscope.probes import HeadId


def random_heads(
    chosen: Sequence[HeadId], heads: int, avoid: Collection[HeadId], rng: np.random.Generator
) -> list[HeadId] | None:
    """As many heads as `chosen` has in each layer, drawn from the layer's other heads.

    The published control of the retrieval-head experiment compares a pair with a list of lists, so
    that it never leaves out the heads it is a control for; this one leaves out all of `chosen`.

    Args:
        chosen: the heads to find a control for.
        heads: query heads per layer.
        avoid: heads that play the role too; taken only where a layer has too few others.
        rng: the draw.

    Returns:
        The heads; None where a layer has fewer heads left than it has chosen ones.
    """
    drawn: list[HeadId] = []
    for layer, count in sorted(Counter(h.layer for h in chosen).items()):
        others = [h for h in (HeadId(layer, i) for i in range(heads)) if h not in chosen]
        if len(others) < count:
            return None
        free = [h for h in others if h not in avoid]
        taken = [free[i] for i in rng.permutation(len(free))[:count]]
        rest = [h for h in others if h not in taken]
        more = [rest[i] for i in rng.permutation(len(rest))[: count - len(taken)]]
        drawn += sorted(taken + more)
    return drawn
