"""An independent oracle, and a process in which Triton kernels run without a GPU."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Callable[..., Any]]:
    """Call a function in a process where Triton interprets and fresh memory holds NaN.

    Triton reads TRITON_INTERPRET when it is first imported, which may have happened here already.
    """
    pytest.importorskip("triton")
    pool = ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), torch.use_deterministic_algorithms, (True,)
    )
    with pool, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        assert pool.submit(torch.empty, 3).result().isnan().all()  # the process runs from here on
        patch.undo()
        yield lambda call, *args, **options: pool.submit(call, *args, **options).result()


@pytest.fixture(scope="session")
def oracle() -> Callable[..., tuple[Tensor, Tensor]]:
    """Attention written down key by key in float64, from the words of the policy."""

    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sink: list[int],
        window: list[int],
        scale: float | None = None,
        key_start: list[int] | None = None,
        softcap: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, y, z = (t.double().numpy() for t in (q, k, v))
        batch, heads, rows, dim = x.shape
        out, lse = np.zeros(x.shape), np.full(x.shape[:3], -np.inf)
        for b, h, i in np.ndindex(batch, heads, rows):
            here, start = y.shape[2] - rows + i, key_start[b] if key_start else 0
            first = set(range(start, start + sink[h]))
            recent = set(range(here - window[h] + 1, here + 1)) if window[h] > 0 else set(range(here + 1))
            keys = [j for j in sorted(first | recent) if start <= j <= here]
            if not keys:
                continue
            g = h // (heads // y.shape[1])
            logits = y[b, g, keys] @ x[b, h, i] * (scale or 1 / math.sqrt(dim))
            if softcap:
                logits = softcap * np.tanh(logits / softcap)
            weights = np.exp(logits - logits.max())
            lse[b, h, i] = logits.max() + np.log(weights.sum())
            out[b, h, i] = weights @ z[b, g, keys] / weights.sum()
        return torch.from_numpy(out), torch.from_numpy(lse)

    return attention


@pytest.fixture
def tensors() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Seeded q [B, Hq, Nq, D] and k, v [B, Hkv, Nk, D]."""

    def make(
        batch: int,
        heads: int,
        kv_heads: int,
        rows: int,
        keys: int,
        dim: int,
        dtype: torch.dtype = torch.float64,
    ) -> tuple[Tensor, Tensor, Tensor]:
        seeded = torch.Generator().manual_seed(heads * keys + dim)
        shapes = (
            (batch, heads, rows, dim),
            (batch, kv_heads, keys, dim),
            (batch, kv_heads, keys, dim),
        )
        q, k, v = (torch.randn(shape, generator=seeded, dtype=dtype) for shape in shapes)
        return q, k, v

    return make
