"""Which implementation can run a tensor: Triton on a GPU, plain torch everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, wraps
from importlib.util import find_spec
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def on_its_device(
    launch: Callable[Concatenate[Tensor, P], R],
) -> Callable[Concatenate[Tensor, P], R]:
    """Make the GPU of the first argument current: Triton launches on the current one only."""

    @wraps(launch)
    def launched(first: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with torch.cuda.device_of(first):  # does nothing for a tensor on the CPU
            return launch(first, *args, **kwargs)

    return launched


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def use_triton(x: Tensor) -> bool:
    """Whether the Triton kernels take this tensor: on a GPU, in float16, bfloat16 or float32."""
    known = (torch.float16, torch.bfloat16, torch.float32)
    return x.is_cuda and x.dtype in known and _has_triton()


def sent(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on that device; a GPU with work to do is not waited for, as a plain copy would."""
    if device.type != "cuda" or x.is_cuda:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=256)
def device_ints(values: tuple[int, ...], device: torch.device) -> Tensor:
    """The integers as an int32 tensor on the device, copied there once."""
    return sent(torch.tensor(values, dtype=torch.int32), device)


@cache
def side_stream(device: torch.device, index: int) -> torch.cuda.Stream:
    """A stream of its own for the long dense launches; its blocks are scheduled first."""
    return torch.cuda.Stream(device, priority=-1)


@cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of the GPU; a typical number where there is none (interpreter)."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


@cache
def overlap(device: torch.device) -> bool:
    """Whether a kernel may be launched before the one it depends on has ended (Hopper's PDL)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
