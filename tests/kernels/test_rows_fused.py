"""Fused row statistics, interpreted, against the plain torch ones, statistic by statistic."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch.testing import assert_close

from headscope.kernels.rows import RowStatistics, row_statistics

TOLERANCE = 5e-6  # float32 arithmetic; absolute, and relative to entropies of about 10


def ask(batch, rows, keys, window=None, pad=None):
    """Random rows of each sequence, unsorted, with left padding and sliding windows."""
    seeded = torch.Generator().manual_seed(rows)
    start = torch.tensor(pad or [0] * batch)
    at = torch.stack([torch.randint(int(s), keys, (rows,), generator=seeded) for s in start])
    hi = at + 1
    lo = start[:, None].expand_as(hi) if window is None else torch.maximum(hi - window, start[:, None])
    return {"at": at, "lo": lo.contiguous(), "hi": hi, "start": start}


@pytest.mark.parametrize(
    ("shape", "where", "options"),
    [
        pytest.param((1, 4, 2, 21, 150, 64), {}, {"first": (1, 4, 70), "recent": (1, 20, 500)}, id="ranges"),
        pytest.param((1, 4, 2, 9, 70, 64), {}, {"keep": ((3, 5), (1, 40), (90, 1)), "top": 0}, id="cuts"),
        pytest.param((2, 6, 2, 9, 100, 96), {"pad": [0, 33]}, {"first": (2,), "recent": (7,),
                     "keep": ((2, 5),), "top": 3}, id="padding,groups-of-3,d96"),
        pytest.param((1, 2, 1, 20, 90, 128), {"window": 13}, {"recent": (4,),
                     "keep": ((4, 6),), "softcap": 3.0}, id="sliding-window,softcap,d128"),
        pytest.param((1, 4, 1, 7, 1300, 64), {}, {"first": (4,), "keep": ((4, 30),),
                     "sinks": (0.5, -1.0, 3.0, 9.0)}, id="splits,learned-sinks"),
        pytest.param((1, 2, 2, 5, 40, 256), {}, {"offsets": ((1,), (3, 50))}, id="offsets,d256"),
        pytest.param((1, 2, 1, 35, 130, 64), {}, {"spans": ((3, 9), (60, 129)), "top": 1}, id="spans"),
    ],
)  # fmt: skip
def test_every_statistic_agrees(interpreted, tensors, shape, where, options):
    from headscope.kernels.rows_fused import fused_row_statistics

    q, k, v = tensors(*shape, dtype=torch.float32)
    options = dict(options)
    if "spans" in options:
        options["spans"] = torch.tensor(options["spans"]).expand(shape[0], -1, 2).contiguous()
    if "sinks" in options:
        options["sinks"] = torch.tensor(options["sinks"])
    rows = ask(shape[0], shape[3], shape[4], **where)
    arguments = (q, k, v, rows.pop("at"), rows.pop("lo"), rows.pop("hi"))
    got = interpreted(fused_row_statistics, *arguments, **rows, **options, scaling=0.3)
    want = row_statistics(*arguments, **rows, **options, scaling=0.3)
    for name in (f.name for f in fields(RowStatistics)):
        a, b = getattr(got, name), getattr(want, name)
        if a.is_floating_point():
            assert_close(
                a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
            )
        else:
            assert torch.equal(a, b), name
