"""The attention seam: the one place where attention is observed or changed.

`attach(model, tap, ...)` swaps the model's attention for one function, registered with both of
transformers' interfaces (registering the attention alone would silently drop the causal mask).
It computes attention as the model would, lets every tap see the call, lets editors replace the
output, and on the way out restores the model and checks that nothing was bypassed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from headscope.probes.errors import DidNotFire, Refused
from headscope.probes.fused import attend
from headscope.probes.visibility import Visibility, visibility

if TYPE_CHECKING:
    from headscope.probes.model import Model

SEAM = "headscope"
_OWN = attend  # the model's own attention
_AS_IT_IS = nullcontext()

# Arguments that do not change the attention weights, or that are read below.
_UNDERSTOOD = {
    "dropout", "scaling", "sliding_window", "softcap", "s_aux", "is_causal", "position_ids",
    "cache_position", "use_cache", "output_attentions", "output_hidden_states", "return_dict",
    "position_embeddings", "logits_to_keep", "labels", "output_router_logits",
}  # fmt: skip


@dataclass(frozen=True)
class AttentionCall:
    """One layer's attention in one forward pass. B sequences, H query heads, D head_dim.

    Attributes:
        layer: 0-based layer index.
        module: the attention module of that layer.
        q: queries after rotary embedding. [B, H, Tq, D]
        k, v: all keys and values so far, heads not repeated. [B, Hkv, N, D]
        visible: which keys each query sees.
        scaling: factor on q.k before the softmax.
        softcap: soft cap of the scaled scores, if any.
        sinks: learned logits in the softmax's denominator, if any. [H]
        output: the heads' outputs, before the output projection. [B, Tq, H, D]
    """

    layer: int
    module: nn.Module
    q: Tensor
    k: Tensor
    v: Tensor
    visible: Visibility
    scaling: float
    softcap: float | None
    sinks: Tensor | None
    output: Tensor

    def giving(self, output: Tensor) -> AttentionCall:
        """The same call with another output. `dataclasses.replace` takes three times as long."""
        return AttentionCall(
            self.layer, self.module, self.q, self.k, self.v, self.visible, self.scaling, self.softcap,
            self.sinks, output,
        )  # fmt: skip


@runtime_checkable
class Observer(Protocol):
    """Reads attention calls. Must not change any tensor it is shown."""

    def see(self, call: AttentionCall) -> None: ...


@runtime_checkable
class Editor(Protocol):
    """Changes attention: returns the output [B, Tq, H, D] that the model goes on with."""

    def edit(self, call: AttentionCall) -> Tensor: ...


@runtime_checkable
class Attender(Editor, Protocol):
    """An editor that, where it comes first, can take the place of the model's attention."""

    def attend(self, call: AttentionCall) -> Tensor | None:
        """The edited output of a call that has none yet [B, Tq, H, D]; None to be asked to edit one."""
        ...


@dataclass
class _Session:
    taps: tuple[Callable[[AttentionCall], Tensor], ...]
    layers: frozenset[int]
    attend: Callable[[AttentionCall], Tensor]
    fired: set[int]
    instead: Callable[[AttentionCall], Tensor | None] | None  # the first tap's own attention
    steps: int = 0

    def attended(self, call: AttentionCall) -> AttentionCall:
        """The call with what all taps make of its output."""
        gradients, rest = torch.is_grad_enabled(), self.taps
        output = self.instead(call) if self.instead and not gradients else None
        if output is None:
            call = call.giving(self.attend(call))
        else:
            call, rest = call.giving(output.to(call.q.dtype)), rest[1:]
        with torch.no_grad() if gradients else _AS_IT_IS:
            for tap in rest:
                if (output := tap(call)) is not call.output:
                    call = call.giving(output.to(call.output.dtype))
        return call


_sessions: WeakKeyDictionary[nn.Module, _Session] = WeakKeyDictionary()


@contextmanager
def attach(
    model: Model, *taps: Observer | Editor, attend: Callable[[AttentionCall], Tensor] = attend
) -> Iterator[None]:
    """Run the model's attention through the seam while the block lasts.

    Taps fire in the order given, editors included: a later tap sees an earlier edit's output.
    Works under plain forwards, `generate`, caches, chunked prefill, padding and batches.

    Args:
        model: whose attention.
        taps: observers and editors.
        attend: what computes the heads' outputs [B, Tq, H, D] of a call whose `output` is not there
            yet; the model's own attention without it. Gradients flow through it.

    Raises:
        Refused: the model cannot be observed correctly (said at the first call).
        DidNotFire: a forward pass, or the whole block, went past some layer.
    """
    decoder = model.decoder
    modules = model.attention_modules
    if any(module in _sessions for module in modules):
        raise Refused("This model already has something attached; attach all taps in one call.")
    first = taps[0] if taps and attend is _OWN else None
    session = _Session(
        tuple(map(_output_after, taps)), frozenset(range(len(modules))), attend, set(),
        instead=first.attend if isinstance(first, Attender) else None,
    )  # fmt: skip
    configs: dict[int, Any] = {id(m.config): m.config for m in decoder.modules() if hasattr(m, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    counter = decoder.register_forward_hook(lambda *_: _close_step(session, model.name))
    try:
        for module in modules:
            _sessions[module] = session
        routed = decoder._can_set_attn_implementation()
        if routed:
            decoder.set_attn_implementation(SEAM)
        if not routed or any(c._attn_implementation != SEAM for c in configs.values()):
            raise Refused(
                f"{model.name!r} ({type(model.hf).__name__}) does not route its attention through "
                "transformers' AttentionInterface, so its heads cannot be observed."
            )
        yield
        if not session.steps:
            raise DidNotFire(f"No forward pass of {model.name!r} ran while taps were attached.")
    finally:
        counter.remove()
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
        for module in modules:
            _sessions.pop(module, None)


def _output_after(tap: Observer | Editor) -> Callable[[AttentionCall], Tensor]:
    """What the output is once `tap` has seen the call. Told apart here: asking a protocol takes long."""
    if isinstance(tap, Editor):
        return tap.edit

    def see(call: AttentionCall) -> Tensor:
        tap.see(call)
        return call.output

    return see


def _close_step(session: _Session, name: str) -> None:
    missing = session.layers - session.fired
    session.fired.clear()
    session.steps += 1
    if missing:
        raise DidNotFire(
            f"The attention of layers {sorted(missing)} of {name!r} bypassed the seam in this forward pass."
        )


def _seam_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function registered with transformers."""
    session = _sessions.get(module)
    layer = int(getattr(module, "layer_idx", -1))
    if session is None:
        raise DidNotFire(f"Attention module {type(module).__name__} (layer {layer}) is not attached.")
    _refuse_unknown(module, layer, attention_mask, kwargs)
    assert isinstance(attention_mask, Visibility)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    call = AttentionCall(layer, module, query, key, value, attention_mask, scale, softcap, s_aux, query)
    session.fired.add(layer)
    return session.attended(call).output, None


def _refuse_unknown(module: nn.Module, layer: int, mask: object, kwargs: dict[str, Any]) -> None:
    strange = [name for name in kwargs.keys() - _UNDERSTOOD if isinstance(kwargs[name], Tensor | nn.Module)]
    dropping = module.training and kwargs.get("dropout")
    if isinstance(mask, Visibility) and not strange and not dropping:
        return
    where = f"Layer {layer} ({type(module).__name__})"
    if not isinstance(mask, Visibility):
        raise Refused(
            f"{where} got a ready-made mask of type {type(mask).__name__}; headscope needs the "
            "rule behind it: pass a 2-dimensional attention_mask or none."
        )
    if strange:
        raise Refused(
            f"{where} passes {', '.join(sorted(strange))} to its attention, which headscope does not model."
        )
    raise Refused(f"{where} is in training mode with dropout; call model.eval() first.")


AttentionInterface.register(SEAM, _seam_attention)
AttentionMaskInterface.register(SEAM, visibility)
