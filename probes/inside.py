"""Reading and replacing what flows inside a forward pass: head outputs, MLP outputs, layers.

Building blocks of patching. All of them leave the model as it was, exceptions included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from headscope.probes.model import Model


@contextmanager
def head_outputs(model: Model, change: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Show every layer's head outputs to `change`, and go on with what it returns.

    Args:
        model: whose heads.
        change: from a layer and z [B, T, H, D] to another z, or None to leave it.
    """
    shape = (model.geometry.heads, model.geometry.value_dim)

    def hook(layer: int) -> Callable[..., tuple[Tensor, ...] | None]:
        def pre(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            z = change(layer, args[0].unflatten(-1, shape))
            return None if z is None else (z.flatten(-2).to(args[0].dtype), *args[1:])

        return pre

    with ExitStack() as stack:
        for layer in range(model.geometry.layers):
            handle = model.output_projection(layer).register_forward_pre_hook(hook(layer))
            stack.callback(handle.remove)
        yield


@dataclass
class Record:
    """What one forward pass held, an entry a layer. B sequences, T rows.

    Attributes:
        z: head outputs. [B, T, H, D]
        mlp: what each MLP put out, as its module returned it.
        layer: what each decoder layer put out, as its module returned it.
        entering: what each decoder layer was given. [B, T, hidden]
    """

    z: list[Tensor] = field(default_factory=list)
    mlp: list[Any] = field(default_factory=list)
    layer: list[Any] = field(default_factory=list)
    entering: list[Tensor] = field(default_factory=list)


@contextmanager
def recording(model: Model, mlps: bool = False) -> Iterator[Record]:
    """Keep what the next forward pass holds; MLP outputs only if asked for."""
    found = Record()

    def entered(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.entering.append(args[0] if args else kwargs["hidden_states"])

    with ExitStack() as stack:
        stack.enter_context(head_outputs(model, lambda _, z: found.z.append(z)))
        for layer in model.layer_modules:
            stack.callback(layer.register_forward_pre_hook(entered, with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(lambda *a: found.layer.append(a[2])).remove)
        for mlp in model.mlp_modules if mlps else ():
            stack.callback(mlp.register_forward_hook(lambda *a: found.mlp.append(a[2])).remove)
        yield found


@contextmanager
def frozen_mlps(model: Model, outputs: Sequence[Any], times: int = 1) -> Iterator[None]:
    """Let every MLP put out `outputs[layer]`, each sequence `times` times over."""

    def hook(layer: int) -> Callable[..., Any]:
        return lambda *_: repeat(outputs[layer], times)

    with ExitStack() as stack:
        for layer, module in enumerate(model.mlp_modules):
            stack.callback(module.register_forward_hook(hook(layer)).remove)
        yield


@contextmanager
def resumed(model: Model, layer: int, output: Any) -> Iterator[None]:
    """Skip the layers before `layer`: the last of them puts out `output`, computing nothing."""
    skipped = model.layer_modules[:layer]
    before = [module.__dict__.get("forward") for module in skipped]
    try:
        for module in skipped:
            module.forward = lambda *_, **__: output
        yield
    finally:
        for module, forward in zip(skipped, before, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward


def repeat(output: Any, times: int) -> Any:
    """A module's output for a batch in which each sequence stands `times` times, one after another."""
    if isinstance(output, tuple):
        return tuple(repeat(part, times) for part in output)
    return output.repeat_interleave(times, 0) if isinstance(output, Tensor) else output


def hidden_of(output: Any) -> Tensor:
    """The residual stream in what a decoder layer put out. [B, T, hidden]"""
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found
