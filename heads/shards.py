"""Several processes on one scan, started by torchrun (or accelerate launch)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Shards:
    """This process's place among those that torchrun started; one of one without it."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        if self.count > 1:
            from torch import distributed

            if not distributed.is_initialized():
                distributed.init_process_group("gloo")

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when every process has come this far."""
        if self.count > 1:
            from torch import distributed

            distributed.barrier()

    def first_then_all(self, make: Callable[[], T]) -> T:
        """Call `make` in the first process, then in the others.

        An error in the first process is raised in all of them, so that none waits for ever.
        """
        if self.count == 1:
            return make()
        from torch import distributed

        failure: list[str | None] = [None]
        result: T | None = None
        if self.first:
            try:
                result = make()
            except Exception as error:
                failure[0] = str(error)
                distributed.broadcast_object_list(failure, src=0)
                raise
        distributed.broadcast_object_list(failure, src=0)
        if failure[0] is not None:
            from headscope.probes import HeadscopeError

            raise HeadscopeError(failure[0])
        return result if result is not None else make()

    def sum(self, value: float) -> float:
        """The sum over all processes."""
        if self.count == 1:
            return value
        import torch
        from torch import distributed

        total = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total[0])
