"""How a decoder layer is put together: what reads the residual stream, and what is added to it.

Found by watching one short pass, not from a list of architectures: a module reads the stream if the
very tensor it is given is the stream, or what a norm made of it. What was found is then checked: the
stream that enters a layer plus the two additions must be the stream that leaves it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headscope.probes.errors import Refused
from headscope.probes.inside import hidden_of, recording

if TYPE_CHECKING:
    from headscope.probes.model import Model

_CLOSE = 1e-3  # of the largest entry: what a layer may add beside its attention and its MLP


@dataclass(frozen=True)
class Part:
    """The attention or the MLP of a layer.

    Attributes:
        module: itself.
        before: the norm between the stream and it, or None.
        after: the norm (or dropout) between it and the stream, or None.
    """

    module: nn.Module
    before: nn.Module | None
    after: nn.Module | None

    def read(self, stream: Tensor) -> Tensor:
        """What the module is given when the stream is this."""
        return stream if self.before is None else hidden_of(self.before(stream))

    def add(self, output: Tensor) -> Tensor:
        """What is added to the stream when the module puts out this."""
        return output if self.after is None else hidden_of(self.after(output))


@dataclass(frozen=True)
class Block:
    """One decoder layer. `parallel`: its MLP reads the stream that its attention reads."""

    attention: Part
    mlp: Part
    parallel: bool


@dataclass(frozen=True)
class _Call:
    module: nn.Module
    given: Tensor
    output: Tensor


@torch.no_grad()
def anatomy(model: Model) -> list[Block]:
    """Every layer's parts.

    Raises:
        Refused: a layer adds something else to the stream, or scales what it adds.
    """
    calls: dict[nn.Module, _Call] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given, made = first_input(args, kwargs), output[0] if isinstance(output, tuple) else output
        if isinstance(given, Tensor) and isinstance(made, Tensor):
            calls[module] = _Call(module, given, made)

    ids = torch.arange(3, 9, device=model.device)[None] % model.geometry.vocabulary
    with ExitStack() as stack:
        record = stack.enter_context(recording(model))
        inner = zip(model.layer_modules, model.attention_modules, model.mlp_modules, strict=True)
        for module in {m for layer, *parts in inner for m in (*layer.children(), *parts)}:
            stack.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
        model.decoder(input_ids=ids, use_cache=False)
    return [
        _block(model, i, calls, entering, hidden_of(left))
        for i, (entering, left) in enumerate(zip(record.entering, record.layer, strict=True))
    ]


def _block(
    model: Model, layer: int, calls: dict[nn.Module, _Call], entering: Tensor, leaving: Tensor
) -> Block:
    module = model.layer_modules[layer]
    here = [calls[child] for child in module.children() if child in calls]
    attention = _part(calls[model.attention_modules[layer]], here)
    mlp = _part(calls[model.mlp_modules[layer]], here)
    added = [part.add(calls[part.module].output) for part in (attention, mlp)]
    if not _close(entering + added[0] + added[1], leaving):
        raise Refused(
            f"{model.name!r}: layer {layer} does not simply add its attention and its MLP to the residual "
            "stream, so that edges between them have no meaning here."
        )
    read = calls[mlp.before or mlp.module].given
    parallel = read is entering
    if not parallel and not _close(read, entering + added[0]):
        raise Refused(f"{model.name!r}: what the MLP of layer {layer} reads is not the residual stream.")
    return Block(attention, mlp, parallel)


def _part(call: _Call, children: list[_Call]) -> Part:
    others = [c for c in children if c.module is not call.module]
    before = next((c.module for c in others if c.output is call.given), None)
    after = next((c.module for c in others if c.given is call.output), None)
    return Part(call.module, before, after)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a.float() - b.float()).abs().max() <= _CLOSE * b.float().abs().max())


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first thing that a module was called with, by place or by name."""
    return args[0] if args else kwargs.get("hidden_states")


def with_input(args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor) -> Any:
    """The same arguments with another first one."""
    return ((value, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": value})


def replacing(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Give `module` another first input from now on; returns what undoes it."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return with_input(args, kwargs, change(first_input(args, kwargs)))

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove
