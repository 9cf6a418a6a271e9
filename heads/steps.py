"""Decoding at the speed of the GPU: one step is recorded and then repeated.

A step of a small batch is hundreds of short launches, and preparing them in Python takes longer than
they do. A recorded step needs no Python, but cannot count: where the next keys go is read from the
device, from a clock that the step itself moves on.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.kernels import HeadwiseLayer
from headscope.probes import HeadscopeError, Refused

if TYPE_CHECKING:
    from transformers import DynamicCache

    from headscope.heads.serving import Serving


class Steps:
    """`Serving.steps(cache)`: use it in a `with` block; call it with one new token a sequence."""

    def __init__(self, serving: Serving, cache: DynamicCache, room: int) -> None:
        model, layers = serving.model, [x for x in cache.layers if isinstance(x, HeadwiseLayer)]
        if room < 1:
            raise HeadscopeError(f"room is {room} tokens; it must be 1 or more.")
        if len(layers) < len(cache.layers):
            raise Refused(f"{model.name!r} has layers with a window of their own, whose steps cannot repeat.")
        if not layers[0].length:
            raise Refused("The cache is empty; run the prompt through the model first.")
        if len({x.device for x in layers}) > 1:
            raise Refused("The cache lies on several devices, so a step cannot be recorded.")
        self._model, self._cache, self._layers, self._room = model, cache, layers, room
        self._graph: torch.cuda.CUDAGraph | None = None
        self._ids, self._logits = torch.empty(0), torch.empty(0)
        self._left = 0
        held = layers[0].dense or layers[0].stream
        assert held is not None
        self._sequences = held[0].shape[0]

    def __enter__(self) -> Steps:
        length = self._layers[0].length
        self._clock = torch.tensor([length, length + 1], device=self._layers[0].device)
        self._make_room()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._graph = None
        for layer in self._layers:
            layer.follow(None)

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """Logits [B, vocabulary] after one more token of every sequence. ids: [B, 1]

        The first call runs as ever, the second is recorded, all later ones are repeated. On a CPU
        every call runs as ever.

        Raises:
            HeadscopeError: ids is not one token for every sequence of the cache.
            Refused: the model does something in a step that cannot be recorded; the cache is as before.
        """
        if ids.shape != (self._sequences, 1):
            raise HeadscopeError(
                f"ids has the shape {list(ids.shape)}; a step takes one token of every sequence, "
                f"[{self._sequences}, 1]."
            )
        if not self._left:
            self._make_room()
        self._left -= 1
        if self._graph is not None:
            self._ids.copy_(ids)
            for layer in self._layers:
                layer.length += 1
            self._graph.replay()
        elif len(self._ids) and ids.is_cuda:
            self._record(ids)
        else:
            self._ids = ids.clone()
            self._run()
        return self._logits.clone()

    def _make_room(self) -> None:
        self._graph, self._left = None, self._room  # stores may move, and a recording knows addresses
        for layer in self._layers:
            layer.follow(self._clock, self._room)

    def _run(self) -> None:
        starts = self._layers[0].starts
        place = self._clock[:1] if starts is None else self._clock[:1] - starts
        found = self._model.hf(
            input_ids=self._ids, past_key_values=self._cache, logits_to_keep=1,
            position_ids=place[:, None].expand(len(self._ids), 1),
        )  # fmt: skip
        self._logits = found.logits[:, -1]
        self._clock.add_(1)

    def _record(self, ids: Tensor) -> None:
        self._ids.copy_(ids)
        graph, length = torch.cuda.CUDAGraph(), self._layers[0].length
        try:
            with torch.cuda.graph(graph):
                self._run()
        except RuntimeError as error:
            for layer in self._layers:
                layer.rewind(length)
            raise Refused(
                f"A step of {self._model.name!r} cannot be recorded: {str(error).splitlines()[0]}"
            ) from error
        graph.replay()
        self._graph = graph
