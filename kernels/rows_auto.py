"""Row statistics by the fastest implementation that can run the tensors at hand."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from headscope.kernels.backend import use_triton
from headscope.kernels.rows import RowStatistics
from headscope.kernels.rows import row_statistics as reference

_WIDEST_GROUP = 64


def row_statistics(
    q: Tensor, k: Tensor, v: Tensor, at: Tensor, lo: Tensor, hi: Tensor, **asked: Any
) -> RowStatistics:
    """`kernels.rows.row_statistics`, fused on a GPU and in plain torch everywhere else.

    Arguments, result and errors are those of the reference. Beside them, `prepared` may be a
    dictionary, empty at first, in which the fused path keeps what follows from the places of the
    rows alone; calls that differ in no other argument than q, k, v and sinks may share it.
    """
    fits = q.shape[1] <= _WIDEST_GROUP * k.shape[1] and k.shape[3] == v.shape[3]
    if not (use_triton(q) and fits and q.shape[1] % k.shape[1] == 0):
        asked.pop("prepared", None)
        return reference(q, k, v, at, lo, hi, **asked)
    from headscope.kernels.rows_fused import fused_row_statistics

    asked.pop("chunk_elements", None)  # the fused sweep holds no scores
    return fused_row_statistics(q, k, v, at, lo, hi, **asked)
