"""A policy at work on a transformers model: its attention, and a cache that frees memory.

While a policy is attached, every forward pass of the model runs mixed attention. Caches that
`generate` (or the model itself) makes are given head-wise layers before the first token goes in;
nothing about weights or their order changes, and detaching leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache
from transformers.masking_utils import causal_mask_function

from headscope.heads.policy import Policy
from headscope.heads.steps import Steps
from headscope.kernels import HeadwiseLayer, mixed_prefill
from headscope.probes import AttentionCall, Model, Refused, attach, attend


class Serving:
    """`policy.attach(model)`: use it in a `with` block, or call `detach` when done."""

    def __init__(self, model: Model, policy: Policy) -> None:
        policy.check(model)
        if model.geometry.head_dim != model.geometry.value_dim:
            raise Refused(f"{model.name!r} has keys and values of different widths; no policy can serve it.")
        self.model, self.policy = model, policy
        self._reads = [
            None if window is not None else policy.windows(layer)
            for layer, window in enumerate(model.geometry.windows)
        ]
        self._cache: Cache | None = None
        self._starts: Tensor | None = None
        self._checked: object = None
        self._stack = ExitStack()
        with ExitStack() as stack:
            stack.enter_context(attach(model, attend=self._attend))
            hook = model.decoder.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
            stack.callback(hook.remove)
            self._stack = stack.pop_all()

    def detach(self) -> None:
        """Leave the model as it was. Caches filled so far cannot be used any more."""
        self._stack.close()

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def cache(self) -> DynamicCache:
        """A fresh cache for `past_key_values`; `generate` gets one by itself."""
        cache = DynamicCache(config=self.model.decoder.config)
        self._fit_out(cache)
        return cache

    def steps(self, cache: DynamicCache, room: int = 256) -> Steps:
        """Decode after a prompt that `cache` holds, token by token, without Python between launches.

            with served.steps(cache) as step:
                logits = step(token)  # [B, 1] -> [B, vocabulary]

        Args:
            cache: from `cache()`, filled by the prompt.
            room: tokens for which slots are made ready at a time.

        Raises:
            Refused: the cache is empty or on several devices, or a layer has a window of its own.
            HeadscopeError: room below 1.
        """
        return Steps(self, cache, room)

    def _fit_out(self, cache: Cache) -> None:
        """Replace the layers the policy acts on, while the cache is empty."""
        if type(cache) is not DynamicCache:
            raise Refused(f"A policy needs a DynamicCache to work in, not a {type(cache).__name__}.")
        if cache.get_seq_length():
            raise Refused("The cache was filled before the policy was attached; start with an empty one.")
        fresh = DynamicCache(config=self.model.decoder.config).layers
        groups = self.model.geometry.kv_heads
        cache.layers = [
            old if reads is None else HeadwiseLayer(*reads, groups)
            for old, reads in zip(fresh, self._reads, strict=True)
        ]
        cache.layer_class_to_replicate = None

    def _before(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        cache = kwargs.get("past_key_values")
        if cache is None and kwargs.get("use_cache", self.model.decoder.config.use_cache):
            cache = kwargs["past_key_values"] = self.cache()
            kwargs["use_cache"] = True
        elif cache is not None and any(self._reads) and not _headwise(cache):
            self._fit_out(cache)
        elif cache is not None and cache is not self._cache:
            self._check_cache(cache)
        self._cache = cache
        self._starts = self._padding(kwargs.get("attention_mask"), cache)
        return args, kwargs

    def _check_cache(self, cache: Cache) -> None:
        """A cache that another policy filled lacks keys that this one reads."""
        held = [(x.sink, x.window) if isinstance(x, HeadwiseLayer) else None for x in cache.layers]
        if held != self._reads and _headwise(cache):
            raise Refused("The cache was made for another policy; start with an empty one.")

    def _padding(self, mask: object, cache: Cache | None) -> Tensor | None:
        """First real position of each sequence; None without padding.

        Decided while prompts come in; a decode step goes on with what they said, which spares it a
        wait for the GPU.
        """
        layers = _headwise(cache) if cache else []
        new = 0 if not isinstance(mask, Tensor) else mask.shape[-1] - (layers[0].length if layers else 0)
        if layers and layers[0].length and (mask is None or new == 1):
            return layers[0].starts
        starts = None
        if isinstance(mask, Tensor):
            if mask.dim() != 2:
                raise Refused("A policy needs a 2-dimensional attention_mask or none.")
            real = mask.bool()
            first = torch.where(real.any(-1), real.int().argmax(-1), mask.shape[-1])
            place = torch.arange(mask.shape[-1], device=mask.device)
            if not bool((real == (place >= first[:, None])).all()):
                raise Refused("A policy needs sequences padded on the left, without gaps.")
            starts = first if bool(first.any()) else None
        for layer in layers:
            layer.starts = starts
        return starts

    def _attend(self, call: AttentionCall) -> Tensor:
        """The heads' outputs of one call, [B, Tq, H, D]."""
        reads = self._reads[call.layer]
        if reads is None:
            return attend(call)
        self._check_rule(call)
        options: Mapping[str, Any] = {
            "scale": call.scaling, "softcap": call.softcap, "return_lse": call.sinks is not None,
        }  # fmt: skip
        if self._cache is None:
            out, lse = mixed_prefill(call.q, call.k, call.v, *reads, key_start=self._starts, **options)
        else:
            layer = self._cache.layers[call.layer]
            assert isinstance(layer, HeadwiseLayer)
            out, lse = layer.attend(call.q, **options)
        if call.sinks is not None and lse is not None:  # a learned logit in the softmax's denominator
            out = out * torch.sigmoid(lse - call.sinks.float()[:, None])[..., None].to(out.dtype)
        return out.transpose(1, 2)

    def _check_rule(self, call: AttentionCall) -> None:
        """Full attention must mean causal: packed or bidirectional prompts are not served."""
        if call.visible is self._checked:
            return
        if call.visible.arguments.get("mask_function") is not causal_mask_function:
            raise Refused("A policy serves causal attention only, not packed or bidirectional sequences.")
        self._checked = call.visible


@contextmanager
def serving(model: Model, policy: Policy | None) -> Iterator[DynamicCache]:
    """A fresh cache, with the policy attached while the block lasts; None is the model as it is."""
    if policy is None:
        yield DynamicCache(config=model.decoder.config)
        return
    with policy.attach(model) as served:
        yield served.cache()


def _headwise(cache: Cache) -> list[HeadwiseLayer]:
    return [layer for layer in cache.layers if isinstance(layer, HeadwiseLayer)]


def kv_bytes(cache: Cache) -> int:
    """Bytes of keys and values that a transformers cache holds, head-wise or not."""
    total = 0
    for layer in cache.layers:
        if isinstance(layer, HeadwiseLayer):
            total += layer.nbytes
        else:
            held = (getattr(layer, name, None) for name in ("keys", "values"))
            total += sum(x.numel() * x.element_size() for x in held if x is not None)
    return total
