"""A model under interventions: hooks that act, report that they acted, and go away again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from headscope.probes.aside import StartReader
from headscope.probes.errors import Refused
from headscope.probes.intervene import (
    AttentionEdit,
    AttentionInstead,
    HeadOutputs,
    InputReader,
    OutputEdit,
    edit_of,
)
from headscope.probes.passes import Passes, Rows
from headscope.probes.seam import AttentionCall, attach
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model


@contextmanager
def applied(model: Model, *specs: Spec, prompt: int | Sequence[int] | Tensor | None = None) -> Iterator[None]:
    """Run `model` under the interventions while the block lasts: `with applied(model, spec): ...`.

    Works under plain forwards, `generate`, caches, chunked prefill, left padding and batches;
    afterwards, and after an exception, the model is as it was. Several specs act in the order
    given, those that change attention before those that change head outputs.

    Args:
        model: the model that the specs were fitted to.
        specs: what to do.
        prompt: length of the prompt in tokens (of each, without padding), for specs that tell
            prompt from generated rows; None takes the first forward pass for the whole prompt.

    Raises:
        Refused: a spec for another model, or a call it cannot act on correctly.
        DidNotFire: a forward pass went past a layer, or there was none.
    """
    edits = [(spec, edit_of(model, spec)) for spec in specs]
    passes = Passes(model.name, prompt)
    taps: list[_Tap] = []
    with ExitStack() as stack:
        expected = {(i, layer) for i, (spec, _) in enumerate(edits) for layer in spec.layers}
        readers = [edit for _, edit in edits if isinstance(edit, StartReader)]
        stack.enter_context(passes.follow(model, expected, readers))
        for i, (spec, edit) in enumerate(edits):
            if isinstance(edit, InputReader):
                for layer in spec.layers:
                    read = _reading(edit, layer, passes)
                    handle = model.layer_modules[layer].register_forward_pre_hook(read, with_kwargs=True)
                    stack.callback(handle.remove)
            if isinstance(edit, AttentionEdit):
                taps.append(_Tap(i, spec, edit, passes))
                continue
            for layer in spec.layers:
                hook = _hook(i, spec, edit, passes, model, layer)
                handle = model.output_projection(layer).register_forward_pre_hook(hook)
                stack.callback(handle.remove)
        if taps:
            stack.enter_context(attach(model, *taps))
        yield


@dataclass
class _Tap:
    """An attention edit as the seam's editor."""

    index: int
    spec: Spec
    change: AttentionEdit
    passes: Passes

    def __post_init__(self) -> None:
        self._layers = frozenset(self.spec.layers)
        self._instead = self.change.instead if isinstance(self.change, AttentionInstead) else None

    def attend(self, call: AttentionCall) -> Tensor | None:
        if self._instead is None or self.passes.aside or call.layer not in self._layers:
            return None
        output = self._instead(call, self._rows(call))
        if output is not None:
            self.passes.fired(self.index, call.layer)
        return output

    def edit(self, call: AttentionCall) -> Tensor:
        if self.passes.aside or call.layer not in self._layers:
            return call.output
        self.passes.fired(self.index, call.layer)
        return self.change.attention(call, self._rows(call))

    def _rows(self, call: AttentionCall) -> Rows:
        batch, _, tokens, _ = call.q.shape
        return self.passes.rows(batch, tokens, self.spec.positions, call.q.device)


def _reading(edit: InputReader, layer: int, passes: Passes) -> Any:
    """A pre-hook of a layer that shows an edit what goes in."""

    def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not passes.aside:
            edit.inputs(layer, args[0] if args else kwargs["hidden_states"], passes.past)

    return read


def _hook(index: int, spec: Spec, edit: OutputEdit, passes: Passes, model: Model, layer: int) -> Any:
    """An output edit as a pre-hook of W_O, whose input is all heads' outputs side by side."""
    heads, width = model.geometry.heads, model.geometry.value_dim

    def change(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if passes.aside:
            return None
        flat = args[0]
        if flat.ndim != 3 or flat.shape[-1] != heads * width:
            raise Refused(
                f"The output projection of layer {layer} of {model.name!r} takes a tensor of shape "
                f"{tuple(flat.shape)}, not (batch, tokens, {heads * width})."
            )
        z = flat.unflatten(-1, (heads, width))
        rows = passes.rows(z.shape[0], z.shape[1], spec.positions, z.device)
        passes.fired(index, layer)
        return (edit.outputs(HeadOutputs(layer, z, rows)).to(flat.dtype).flatten(-2), *args[1:])

    return change
