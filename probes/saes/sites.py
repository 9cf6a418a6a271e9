"""Sites: the tensors inside a model that a sparse autoencoder reads, and can be spliced into."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from headscope.probes.errors import DidNotFire, HeadscopeError, unknown
from headscope.probes.geometry import Geometry
from headscope.probes.inside import hidden_of

if TYPE_CHECKING:
    from headscope.probes.model import Model

Kind = Literal["z", "attn", "mlp", "resid"]
SITE_KINDS: dict[Kind, tuple[str, str]] = {
    "z": ("attn.hook_z", "head outputs before W_O, all heads of a layer side by side, or one head"),
    "attn": ("hook_attn_out", "what W_O puts out, before any norm that follows it"),
    "mlp": ("hook_mlp_out", "what the MLP puts out, before any norm that follows it"),
    "resid": ("hook_resid_post", "the residual stream after the layer"),
}
"""TransformerLens' name of each kind of site, and what it is."""

Tap = Callable[[Tensor], Tensor | None]
"""From a site's activations [B, T, width] to others, or None to leave them."""


class Site(BaseModel):
    """One place in a model.

    Attributes:
        kind: see `SITE_KINDS`.
        layer: 0-based.
        head: one query head of a `z` site; None for all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    layer: int
    head: int | None = None

    def __str__(self) -> str:
        return f"L{self.layer}{'' if self.head is None else f'H{self.head}'}.{self.kind}"

    @property
    def hook_name(self) -> str:
        """What TransformerLens and SAELens call the place (a head is told apart by `hook_head_index`)."""
        return f"blocks.{self.layer}.{SITE_KINDS[self.kind][0]}"

    def width(self, geometry: Geometry) -> int:
        """Numbers per token."""
        heads = geometry.heads if self.head is None else 1
        return heads * geometry.value_dim if self.kind == "z" else geometry.hidden

    def check(self, model: Model) -> None:
        """Raise HeadscopeError where the model has no such place."""
        g = model.geometry
        if not 0 <= self.layer < g.layers:
            raise HeadscopeError(f"layer is {self.layer}, but {model.name!r} has layers 0 to {g.layers - 1}.")
        if self.head is None:
            return
        if self.kind != "z":
            raise HeadscopeError(
                f"head is {self.head}, but only the site 'z' can be one head; {self.kind!r} mixes all heads."
            )
        if not 0 <= self.head < g.heads:
            raise HeadscopeError(f"head is {self.head}, but {model.name!r} has heads 0 to {g.heads - 1}.")


def site_of(hook_name: str, head: int | None = None) -> Site:
    """The site that SAELens calls `hook_name`.

    Raises:
        UnknownName: a hook that headscope does not read.
    """
    found = re.fullmatch(r"blocks\.([0-9]{1,6})\.(.+)", hook_name)
    for kind, (name, _) in SITE_KINDS.items():
        if found and found[2] == name:
            return Site(kind=kind, layer=int(found[1]), head=head)
    raise unknown("site", hook_name, [f"blocks.N.{name}" for name, _ in SITE_KINDS.values()])


@contextmanager
def tapped(model: Model, taps: Mapping[Site, Tap]) -> Iterator[None]:
    """Show each site's activations to its tap in every forward pass, and go on with what it returns.

    Raises:
        HeadscopeError: the model has no such site.
        DidNotFire: a site was bypassed while the block lasted.
    """
    fired: set[Site] = set()
    with ExitStack() as stack:
        for site, tap in taps.items():
            site.check(model)
            stack.callback(_hook(model, site, tap, fired).remove)
        yield
    silent = [str(site) for site in taps if site not in fired]
    if silent:
        raise DidNotFire(f"The sites {', '.join(silent)} of {model.name!r} were bypassed.")


def _hook(model: Model, site: Site, tap: Tap, fired: set[Site]) -> Any:
    """Register the forward hook, or pre-hook for `z`, that shows a site to its tap."""

    def shown(x: Tensor) -> Tensor | None:
        fired.add(site)
        found = tap(x)
        return None if found is None else found.to(x.dtype)

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        whole: Tensor = args[0]
        if site.head is None:
            new = shown(whole)
            return None if new is None else (new, *args[1:])
        start = site.head * model.geometry.value_dim
        stop = start + model.geometry.value_dim
        new = shown(whole[..., start:stop])
        if new is None:
            return None
        return (torch.cat([whole[..., :start], new, whole[..., stop:]], -1), *args[1:])

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        new = shown(hidden_of(output))
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    if site.kind == "z":
        return model.output_projection(site.layer).register_forward_pre_hook(before)
    if site.kind == "attn":
        return model.output_projection(site.layer).register_forward_hook(after)
    modules = model.mlp_modules if site.kind == "mlp" else model.layer_modules
    return modules[site.layer].register_forward_hook(after)


class _Enough(Exception):
    """Ends a forward pass when everything asked for has been seen."""


@torch.no_grad()
def capture(model: Model, ids: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """What each site holds on a batch of sequences; no layer above the last site runs.

    Args:
        model: the model.
        ids: token ids. [B, T]
        sites: where to read.

    Returns:
        for each site its activations, in the model's precision. [B, T, width]
    """
    found: dict[Site, Tensor] = {}

    def keep(site: Site) -> Tap:
        return lambda x: found.update({site: x.detach()})

    def stop(*_: object) -> None:
        raise _Enough

    last = max(site.layer for site in sites)
    with tapped(model, {site: keep(site) for site in sites}), ExitStack() as stack, suppress(_Enough):
        if last + 1 < model.geometry.layers:
            stack.callback(model.layer_modules[last + 1].register_forward_pre_hook(stop).remove)
        model.decoder(input_ids=ids.to(model.device), use_cache=False)
    return found
