"""A transformers cache layer in which KV groups keep different keys.

Groups that keep everything share a store that grows; groups that stream keep sink + recent in a ring,
so that their memory does not grow with the text. The layer also computes the attention over what
it holds: only it knows where the keys are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from headscope.kernels.decode import decode_stores
from headscope.kernels.place import Store, place
from headscope.kernels.plan import plan_heads, take
from headscope.kernels.prefill import mixed_prefill
from headscope.kernels.stores import append, grow, ring_read, ring_write

_Result: TypeAlias = tuple[Tensor, Tensor | None]  # out, log-sum-exp


class HeadwiseLayer(CacheLayerMixin):
    """Keys and values of one layer. A KV group holds what its query heads together read.

    Args:
        sink, window: per query head, as in `mixed_prefill`; window -1 reads everything. [Hq]
        kv_heads: groups of the layer.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = False

    def __init__(self, sink: Sequence[int], window: Sequence[int], kv_heads: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sink, self.window = list(sink), list(window)
        self.plan = plan_heads(sink, window, kv_heads)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.length = 0
        self.starts: Tensor | None = None  # first real position of each sequence [B], None without padding
        self.is_initialized = False
        self.dense: Store | None = None
        self.stream: Store | None = None
        self.clock: Tensor | None = None
        self._fresh: Store | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        groups = self.plan.streaming_groups
        if groups:
            rooms = (self.plan.group_sink[g] + self.plan.group_window[g] for g in groups)
            shape = (key_states.shape[0], len(groups), max(rooms), key_states.shape[3])
            self.stream = key_states.new_zeros(shape), key_states.new_zeros(shape)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take new keys; `attend` stores them. Returns them as they are, not the whole past.

        Raises:
            RuntimeError: the last ones were never attended: this cache's attention is not running.
        """
        if self._fresh is not None:
            raise RuntimeError("A head-wise cache works only while the policy it was made for is attached.")
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._fresh = key_states, value_states
        return key_states, value_states

    def attend(
        self, q: Tensor, *, scale: float, softcap: float | None = None, return_lse: bool = False
    ) -> _Result:
        """Attention of the queries that came with the newest keys, as `mixed_prefill` over all keys.

        Args:
            q: [B, Hq, n, D]
            scale, softcap, return_lse: as in `mixed_prefill`.
        """
        assert self._fresh is not None, "update comes first"
        (k, v), before = self._fresh, self.length
        self._fresh, self.length = None, before + k.shape[2]
        options: dict[str, Any] = {"scale": scale, "softcap": softcap, "return_lse": return_lse}
        if self.clock is not None:
            starts = self._small_starts(q.device)
            place((k, v), self.dense, self.stream, self.plan, self.clock[:1], starts)
            seen = self.clock[1:]
            return decode_stores(q, self.dense, self.stream, self.plan, seen, starts=starts, **options)
        self._append(k, v, before)
        if before and q.shape[2] == 1:
            self._turn(k, v, before)
            starts = self._small_starts(q.device)
            return decode_stores(q, self.dense, self.stream, self.plan, self.length, starts=starts, **options)
        if before:  # a chunk meets the rings as they were before it
            result = self._chunk(q, k, v, before, options)
        else:
            result = mixed_prefill(q, k, v, self.sink, self.window, key_start=self.starts, **options)
        self._turn(k, v, before)
        return result

    def follow(self, clock: Tensor | None, room: int = 0) -> None:
        """Let the device say where the next keys go, so that a recorded step can be repeated.

        From here on keys come one at a time, at most `room` of them, until `follow(None)`.

        Args:
            clock: the place of the next key, and the length with it; int64 on the cache's device. [2]
            room: slots to have ready for it.
        """
        self.clock = clock
        if clock is not None and self.dense:
            k, v = (grow(x, self.length + room, self.length) for x in self.dense)
            self.dense = k, v

    def rewind(self, length: int) -> None:
        """Go back to so many keys, from a step that was recorded and never ran."""
        self.length, self._fresh = length, None

    def _append(self, k: Tensor, v: Tensor, before: int) -> None:
        groups = self.plan.dense_groups
        if groups:
            old_k, old_v = self.dense or (None, None)
            self.dense = append(old_k, take(k, groups), before), append(old_v, take(v, groups), before)

    def _small_starts(self, device: torch.device) -> Tensor | None:
        return None if self.starts is None else self.starts.to(device, torch.int32)

    def _turn(self, k: Tensor, v: Tensor, before: int) -> None:
        groups = self.plan.streaming_groups
        sinks = [self.plan.group_sink[g] for g in groups]
        for store, x in zip(self.stream or (), (k, v), strict=False):
            ring_write(store, take(x, groups), sinks, before, self.starts)

    def _chunk(self, q: Tensor, k: Tensor, v: Tensor, before: int, options: dict[str, Any]) -> _Result:
        """Dense groups over all their keys, streaming ones over their rings and the chunk."""
        out = torch.empty_like(q)
        lse = q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        if self.dense:
            whole = [x[:, :, : self.length] for x in self.dense]
            self._part(out, lse, q, (whole[0], whole[1]), self.plan.dense_groups, self.starts, options)
        if self.stream:
            groups = self.plan.streaming_groups
            sinks = [self.plan.group_sink[g] for g in groups]
            reach = max(sinks), max(self.plan.group_window[g] for g in groups)
            laid = [ring_read(x, sinks, reach, before, self.starts) for x in self.stream]
            keys, values = (
                torch.cat([old, take(x, groups)], 2) for (old, _), x in zip(laid, (k, v), strict=True)
            )
            starts = laid[0][1]
            if starts is not None and self.starts is not None:  # padding in the chunk follows an empty ring
                starts = starts + (self.starts - before).clamp_min(0)
            self._part(out, lse, q, (keys, values), groups, starts, options)
        return out, lse if options["return_lse"] else None

    def _part(
        self,
        out: Tensor,
        lse: Tensor,
        q: Tensor,
        store: Store,
        groups: Sequence[int],
        starts: Tensor | None,
        options: dict[str, Any],
    ) -> None:
        """Fill the rows of some groups' query heads."""
        size = len(self.sink) // len(self.plan.group_sink)
        heads = [g * size + i for g in groups for i in range(size)]
        policy = [self.sink[h] for h in heads], [self.window[h] for h in heads]
        part, level = mixed_prefill(take(q, heads), *store, *policy, key_start=starts, **options)
        out[:, heads] = part
        if level is not None:
            lse[:, heads] = level

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.20

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values take, spare slots included."""
        held = (*(self.dense or ()), *(self.stream or ()))
        return sum(x.numel() * x.element_size() for x in held)

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        self.dense = self.dense and (change(self.dense[0]), change(self.dense[1]))
        self.stream = self.stream and (change(self.stream[0]), change(self.stream[1]))
        self.starts = None if self.starts is None else change(self.starts)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._each(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each(lambda x: x.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._each(lambda x: x[indices.to(x.device)])

    def offload(self) -> None:
        self._each(lambda x: x.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        self._each(lambda x: x.to(self.device, non_blocking=True))
