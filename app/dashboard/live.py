"""What needs the model itself while one waits: texts and questions typed on a page."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from headscope.app.beforeafter import BeforeAfter, before_after
from headscope.probes import HeadscopeError, json_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headscope.app.dashboard.questions import Question
    from headscope.app.wanted import Wanted
    from headscope.probes import AttentionCall, Model, Spec

_TOP = 8  # heaviest keys kept of a row
LENGTH = {False: 24, True: 48}  # tokens that an answer may have, without and with a picture
_EVERYTHING = 4e8  # scores of all layers and heads below which one prefill keeps every layer
_one_at_a_time = threading.Lock()  # the seam is the model's: two visitors must not share a forward pass


@dataclass(frozen=True)
class Reading:
    """What every head of some layers looks at, from every token of a text.

    Attributes:
        tokens: the text, token by token.
        keys, masses: the heaviest keys of each row by layer; -1 where there are fewer. [H, n, top]
    """

    tokens: tuple[str, ...]
    keys: dict[int, NDArray[np.int64]]
    masses: dict[int, NDArray[np.float32]]

    def rows(self, layer: int, head: int, begin: int, stop: int) -> dict[int, list[tuple[int, float]]]:
        """One head's rows `begin` ... `stop - 1`."""
        keys, masses = self.keys[layer][head], self.masses[layer][head]
        return {
            row: [(int(k), float(m)) for k, m in zip(keys[row], masses[row], strict=True) if k >= 0]
            for row in range(begin, min(stop, len(keys)))
        }


class _Chosen:
    """An observer that hands the chosen layers' calls on and lets the others pass."""

    def __init__(self, observer: Any, layers: set[int]) -> None:
        self._observer, self._layers = observer, layers

    def see(self, call: AttentionCall) -> None:
        if call.layer in self._layers:
            self._observer.see(call)


@contextmanager
def alone() -> Iterator[None]:
    """Nobody else's forward passes run while the block lasts."""
    with _one_at_a_time:
        yield


def read(model: Model, text: str, layer: int) -> Reading:
    """Run `text` through the model once; all layers of a short text, `layer` alone of a long one.

    Raises:
        HeadscopeError: no text, or one longer than the model's context.
    """
    import torch

    from headscope.probes import RowObserver, Watch, attach

    ids = model.encode(text)
    n, g = ids.shape[1], model.geometry
    if not n:
        raise HeadscopeError("The text is empty.")
    if g.context and n > g.context:
        raise HeadscopeError(f"The text has {n:,} tokens, but {model.name!r} was built for {g.context:,}.")
    layers = set(range(g.layers)) if _affordable(model, n) else {layer}
    watch = Watch(first=(1,), recent=(1,), keep=(), top=min(_TOP, n), received=False)
    seen = RowObserver(rows=torch.arange(n)[None], watch=watch)
    with alone(), torch.no_grad(), attach(model, _Chosen(seen, layers)):
        model.hf(input_ids=ids, use_cache=False, logits_to_keep=1)
    seen.check()
    tokens = tuple(str(model.tokenizer.decode([i])) for i in ids[0].tolist()) if model.tokenizer else ()
    return Reading(
        tokens,
        {i: s.top_key[0].numpy() for i, s in seen.layers.items()},
        {i: s.top_mass[0].float().numpy() for i, s in seen.layers.items()},
    )


@st.cache_resource(max_entries=1, show_spinner=False)
def model(source: str, fingerprint: str) -> Model:
    """The model of a run, loaded once; the one before it is let go.

    Raises:
        HeadscopeError: it cannot be loaded, or is not the one that was scanned.
    """
    from headscope.probes import load

    found = load(source)
    if fingerprint and found.fingerprint != fingerprint:
        raise HeadscopeError(
            f"The model {source!r} is not the one that was scanned: its weights have the fingerprint "
            f"{found.fingerprint}, the run's {fingerprint}."
        )
    return found


def reading(source: str, fingerprint: str, text: str, layer: int) -> Reading:
    """`read`, kept for the last few texts; that of a short text serves all layers."""
    found = model(source, fingerprint)
    everything = _affordable(found, found.encode(text).shape[1])
    return _reading(source, fingerprint, text, 0 if everything else layer)


@st.cache_resource(max_entries=4, show_spinner=False)
def _reading(source: str, fingerprint: str, text: str, layer: int) -> Reading:
    return read(model(source, fingerprint), text, layer)


def _affordable(model: Model, n: int) -> bool:
    """Whether the rows of every layer can be kept."""
    g = model.geometry
    return n * n * g.heads * g.layers <= _EVERYTHING


def loaded(source: str) -> bool:
    """Whether this visitor has had the model loaded."""
    return bool(st.session_state.get("loaded") == source)


@st.cache_resource(max_entries=8, show_spinner=False)
def pace(source: str, fingerprint: str, tokens: int) -> float:
    """Seconds that one forward pass of so many tokens takes."""
    import torch

    found = model(source, fingerprint)
    ids = torch.zeros(1, tokens, dtype=torch.long, device=found.device)
    with alone(), torch.no_grad():
        began = time.perf_counter()
        found.hf(input_ids=ids, use_cache=False, logits_to_keep=1)
        return time.perf_counter() - began


def fitted(source: str, fingerprint: str, wanted: Wanted) -> Spec:
    """The spec of what was asked for, where fitting takes next to nothing; kept for the last few."""
    return _fitted(source, fingerprint, repr(wanted), wanted)


@st.cache_resource(max_entries=16, show_spinner=False)
def _fitted(source: str, fingerprint: str, key: str, _wanted: Wanted) -> Spec:
    found = model(source, fingerprint)
    with alone():
        return _wanted.fit(found)


def answered(source: str, fingerprint: str, spec: Spec, question: Question) -> BeforeAfter:
    """What the model says without and with a spec; kept for the last few."""
    shown = [picture.digest for picture in question.pictures]
    found = _answered(source, fingerprint, json_text(spec), question.text, str(shown), spec, question)
    st.session_state["loaded"] = source
    return found


@st.cache_resource(max_entries=16, show_spinner=False)
def _answered(
    source: str, fingerprint: str, key: str, text: str, shown: str, _spec: Spec, _question: Question
) -> BeforeAfter:
    found, pictures = model(source, fingerprint), _question.pictures
    begin = str(getattr(found.tokenizer, "bos_token", None) or "")  # the model's tokenizer adds its own
    with alone():
        return before_after(
            found, _spec, text.removeprefix(begin), pictures=pictures, length=LENGTH[bool(pictures)]
        )
