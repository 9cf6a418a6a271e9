"""Which positions a forward pass computes: the same answer whole, in chunks, padded and cached."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headscope.probes.aside import Start, StartReader
from headscope.probes.errors import DidNotFire, Refused

if TYPE_CHECKING:
    from headscope.probes.model import Model
    from headscope.probes.spec import Positions


@dataclass(frozen=True)
class Rows:
    """The query rows of one forward pass. B sequences, T rows.

    Attributes:
        position: in the unpadded sequence, from 0; negative in left padding. [B, T]
        acts: the rows that an intervention changes. [B, T]
        prompt: length of each prompt in tokens; None where it is not known. [B]
        image: which of the N keys so far, padding included, are image tokens; None for a model of text
            alone, and where the token ids did not pass by. [B, N]
        shows: whether there may be image tokens among the T.
    """

    position: Tensor
    acts: Tensor
    prompt: Tensor | None
    image: Tensor | None = None
    shows: bool = True


@dataclass
class Passes:
    """Follows a model's forward passes.

    Attributes:
        name: of the model, for errors.
        prompt: length of each prompt, unpadded; None takes the first pass for the whole prompt.
        aside: an edit is running the decoder on its own; nothing acts meanwhile, or is counted.
    """

    name: str
    prompt: int | Sequence[int] | Tensor | None = None
    steps: int = 0
    aside: bool = False
    _past: int = 0
    _tokens: int = 0
    _start: Tensor | None = None
    _inferred: Tensor | None = None
    _pieces: bool = False
    _fired: set[tuple[int, int]] = field(default_factory=set)
    _called: dict[str, Any] = field(default_factory=dict)
    _rows: dict[tuple[int, int, str, torch.device], Rows] = field(default_factory=dict)
    _image_token: int | None = None
    _image: Tensor | None = None
    _shows: bool = True

    @contextmanager
    def follow(
        self, model: Model, expected: set[tuple[int, int]], readers: Sequence[StartReader] = ()
    ) -> Iterator[None]:
        """Watch the decoder while the block lasts.

        Args:
            model: whose passes.
            expected: what has to be reported to `fired` in every pass: (spec, layer).
            readers: edits that are shown every prompt before it is read.

        Raises:
            DidNotFire: something expected did not happen in a pass, or no pass came at all.
        """
        decoder = model.decoder
        signature = inspect.signature(decoder.forward)

        def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.aside:
                return
            given = _named(signature, args, kwargs)
            self._begin(given)
            if readers and not self._past:
                self._tell(model, given, readers)

        whole = inspect.signature(model.hf.forward)

        def call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._called = _named(whole, args, kwargs)

        opened = decoder.register_forward_pre_hook(begin, with_kwargs=True)
        closed = decoder.register_forward_hook(lambda *_: None if self.aside else self._end(expected))
        # The decoder of a model that takes pictures is handed embeddings: what they stand for is told above.
        called = model.hf.register_forward_pre_hook(call, with_kwargs=True) if model.vision else None
        self._image_token = model.vision.image_token if model.vision else None
        try:
            yield
            if not self.steps:
                raise DidNotFire(f"No forward pass of {self.name!r} ran while the intervention was applied.")
        finally:
            opened.remove()
            closed.remove()
            if called:
                called.remove()

    @property
    def past(self) -> int:
        """Tokens in the cache before the pass at hand, padding included."""
        return self._past

    def fired(self, spec: int, layer: int) -> None:
        """Report that spec number `spec` acted in `layer`."""
        self._fired.add((spec, layer))

    def rows(self, batch: int, tokens: int, positions: Positions, device: torch.device) -> Rows:
        """The rows of the pass at hand: worked out by the first layer that asks, the same for the others.

        Raises:
            Refused: `positions` asks where the prompt ends, and that is not known.
        """
        key = batch, tokens, positions, device
        if key not in self._rows:
            self._rows[key] = self._found(batch, tokens, positions, device)
        return self._rows[key]

    def _found(self, batch: int, tokens: int, positions: Positions, device: torch.device) -> Rows:
        start = torch.zeros(1, dtype=torch.long) if self._start is None else self._start
        at = torch.arange(self._past, self._past + tokens, device=device) - start.to(device)[:, None]
        at = at.expand(batch, tokens)
        prompt = self._prompt(batch, device)
        acts = at >= 0
        if positions != "all":
            if prompt is None:
                raise Refused(
                    f"Where the prompt ends is not known, and the intervention acts on {positions!r} "
                    "positions: say how many tokens it has with applied(..., prompt=n)."
                )
            writes = at >= prompt[:, None] - 1
            acts = acts & (writes if positions == "generated" else ~writes)
        image = None if self._image is None else self._image.to(device).expand(batch, -1)
        return Rows(at, acts, prompt, image, self._shows)

    def _begin(self, given: dict[str, Any]) -> None:
        called, self._called = self._called, {}
        self._rows.clear()
        cache, mask = given.get("past_key_values"), given.get("attention_mask")
        if isinstance(mask, dict) and called:  # made of this one, for each kind of layer
            mask = called.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            raise Refused(
                f"{self.name!r} got a ready-made mask, and an intervention needs to know which tokens are "
                "padding: pass a 2-dimensional attention_mask or none."
            )
        tokens = given.get("input_ids")
        tokens = given.get("inputs_embeds") if tokens is None else tokens
        self._past = int(cache.get_seq_length()) if cache is not None else 0
        self._tokens = int(tokens.shape[1]) if tokens is not None else 0
        self._start = None if mask is None else mask.to(torch.uint8).argmax(-1).cpu()
        self._fired.clear()
        self._see(called.get("input_ids", given.get("input_ids")))
        if self._past == 0:
            start = torch.zeros(1, dtype=torch.long) if self._start is None else self._start
            self._inferred, self._pieces = self._tokens - start, False
        elif self._tokens > 1:
            self._pieces = True

    def _tell(self, model: Model, given: dict[str, Any], readers: Sequence[StartReader]) -> None:
        """Show the prompts to those that want to see them before they are read."""
        embeds, embed = given.get("inputs_embeds"), model.hf.get_input_embeddings()
        embeds = embed(given["input_ids"]) if embeds is None else embeds
        rows = self.rows(len(embeds), embeds.shape[1], "all", embeds.device)
        assert rows.prompt is not None  # the first pass is the whole prompt where nothing else is said
        prompt = rows.acts & (rows.position < rows.prompt[:, None])
        self.aside = True
        try:
            for reader in readers:
                reader.before(Start(embeds, prompt, rows.image, given.get("position_ids")))
        finally:
            self.aside = False

    def _see(self, ids: Tensor | None) -> None:
        """Note which of the keys of this pass are image tokens. [B, T]"""
        if self._image_token is None:
            return
        before, self._image, self._shows = self._image, None, True
        new = None if ids is None else ids == self._image_token
        if self._past == 0:
            self._image = new
        elif new is not None and before is not None and before.shape == (len(new), self._past):
            self._image = torch.cat([before, new.to(before.device)], 1)
            self._shows = bool(new.any())

    def _prompt(self, batch: int, device: torch.device) -> Tensor | None:
        if self.prompt is not None:
            return torch.as_tensor(self.prompt, device=device).expand(batch)
        if self._inferred is None or self._pieces:
            return None
        return self._inferred.to(device).expand(batch)

    def _end(self, expected: set[tuple[int, int]]) -> None:
        self.steps += 1
        missing = expected - self._fired
        self._fired.clear()
        if missing:
            layers = sorted({layer for _, layer in missing})
            raise DidNotFire(
                f"The intervention did not act in layers {layers} of {self.name!r} in this forward pass."
            )


def _named(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name; binding them takes long, and is rarely needed."""
    return signature.bind_partial(*args, **kwargs).arguments if args else kwargs
