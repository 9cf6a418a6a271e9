"""How a vision-language model takes pictures in: as runs of image tokens among the text's.

`FAMILIES` lists the architectures whose image tokens run through the decoder, each with a function
that says what stands in the text for a picture, what the vision tower gets, and which token shows
which part. Everything else that has a vision tower is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headscope.probes.errors import HeadscopeError, Refused
from headscope.probes.families import FAMILIES, Shown
from headscope.probes.pictures import Picture
from headscope.probes.prompts import Contrast, Prompt, View
from headscope.probes.quiet import quiet
from headscope.probes.tokens import decode, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KEPT = 256  # pictures whose pixels are kept ready


def has_vision(config: Any) -> bool:
    """Whether a configuration is that of a model with a vision tower."""
    return getattr(config, "vision_config", None) is not None


def refuse_unknown(config: Any, name: str) -> None:
    """Refuse what is no decoder with image tokens in it.

    Raises:
        Refused: an encoder-decoder, or a vision-language model of another kind.
    """
    kind = str(config.model_type)
    if getattr(config, "is_encoder_decoder", False):
        raise Refused(f"{name!r} is an encoder-decoder ({kind}); headscope reads decoders only.")
    if not has_vision(config):
        return
    if kind not in FAMILIES:
        crossed = getattr(config.get_text_config(), "cross_attention_layers", None)
        why = "reads pictures by cross-attention" if crossed else "is a vision-language model of a kind"
        tail = "so its decoder holds no image tokens" if crossed else "that headscope does not know"
        raise Refused(f"{name!r} ({kind}) {why}, {tail}; known are {', '.join(sorted(FAMILIES))}.")
    tower = str(getattr(config.vision_config, "model_type", ""))
    if tower == "pixtral":
        raise Refused(
            f"{name!r} ({kind}) has a vision tower of kind {tower!r}, which headscope does not know."
        )


@dataclass(eq=False)
class Vision:
    """The eyes of one model; a task whose prompts have pictures gets it in place of a tokenizer.

    Attributes:
        name: what the model is called.
        config: the model's configuration.
        tokenizer: its tokenizer; None where it was loaded without one.
        image_processor: makes pixels of pictures; None where it was loaded without one.
        image_token: id of the token that stands for a piece of a picture.
    """

    name: str
    config: Any
    tokenizer: Any
    image_processor: Any
    image_token: int = field(init=False)
    _shown: dict[str, Shown] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.image_token = int(self.config.image_token_id)

    @property
    def placeholder(self) -> str:
        """What stands in a text for one picture."""
        family = FAMILIES[self.config.model_type]
        return str(self._tokenizer.convert_ids_to_tokens(getattr(self.config, family.placeholder)))

    def prompt(
        self,
        text: str,
        pictures: Sequence[Picture],
        *,
        task: str = "ask",
        answer: str = "",
        chat: bool = True,
        spans: Mapping[str, str] | None = None,
        offsets: Mapping[str, tuple[int, ...]] | None = None,
        meta: Mapping[str, Any] | None = None,
        contrast: Contrast | None = None,
    ) -> Prompt:
        """A prompt that shows pictures and says something about them.

        Args:
            text: what is said after the pictures; where it holds placeholders, they say where the
                pictures stand.
            pictures: what is shown.
            task: what the prompt is for.
            answer: the right answer, teacher-forced; tokenised apart, as if the model had written it.
            chat: put it as the user's turn, where the tokenizer has a chat template.
            spans: phrases of `text` to label, by name.
            offsets, meta, contrast: as in `Prompt`.

        Raises:
            HeadscopeError: no tokenizer or image processor, a picture that the model cannot take, a
                phrase that `text` lacks.
        """
        shown = [self.show(picture) for picture in pictures]
        written, special = self._written(text, len(pictures), chat)
        pieces = written.split(self.placeholder)
        if len(pieces) != len(pictures) + 1:
            raise HeadscopeError(
                f"The text has {len(pieces) - 1} places for pictures ({self.placeholder}), and there are "
                f"{len(pictures)} pictures."
            )
        whole = pieces[0] + "".join(s.text + p for s, p in zip(shown, pieces[1:], strict=True))
        encoded = encode(self._tokenizer, whole, special=special)
        ids, n = encoded.ids, len(encoded.ids)
        if answer:
            ids += encode(self._tokenizer, answer).ids
        at = [i for i, token in enumerate(encoded.ids) if token == self.image_token]
        begin, labels = whole.rfind(text), {}
        for name, phrase in (spans or {}).items():
            place = text.find(phrase)
            if begin < 0 or place < 0:
                raise HeadscopeError(f"The text of the prompt lacks the phrase {phrase!r} ({name}).")
            labels[name] = encoded.span(begin + place, begin + place + len(phrase))
        return Prompt(
            task=task, ids=ids, spans=runs(at) | labels, answer=(n, len(ids)) if answer else None,
            offsets=offsets or {}, meta=meta or {}, contrast=contrast,
            pictures=tuple(pictures), views=self._views(shown, at),
        )  # fmt: skip

    def show(self, picture: Picture) -> Shown:
        """How one picture enters a prompt of this model.

        Raises:
            HeadscopeError: no image processor, or a picture that it cannot take.
        """
        if picture.digest not in self._shown:
            if self.image_processor is None:
                raise HeadscopeError(
                    f"{self.name!r} was loaded without an image processor, so it cannot be shown pictures."
                )
            self._tokenizer  # noqa: B018 - asked for first, so that its absence is what is said
            while len(self._shown) >= _KEPT:
                self._shown.pop(next(iter(self._shown)))
            try:
                with quiet():
                    self._shown[picture.digest] = FAMILIES[self.config.model_type].show(self, picture)
            except Exception as error:  # the image processors raise a dozen kinds
                size = f"{picture.width} × {picture.height}"
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise HeadscopeError(
                    f"{self.name!r} cannot take a picture of {size} pixels: {reason}"
                ) from error
        return self._shown[picture.digest]

    def inputs(self, ids: Tensor, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """What the model is called with besides `ids` [B, T]; the pictures of all sequences in order."""
        family = FAMILIES[self.config.model_type]
        if not pictures:
            return {}
        parts = [self.show(picture).pixels for picture in pictures]
        found = {name: _joined([part[name] for part in parts]) for name in parts[0]}
        if family.types:
            found[family.types] = (ids == self.image_token).to(torch.long)
        return found

    def token(self, id_or_name: int | str) -> str:
        """The text of a special token, given by its id or by the name of its id in the configuration."""
        token = getattr(self.config, id_or_name) if isinstance(id_or_name, str) else id_or_name
        return str(self._tokenizer.convert_ids_to_tokens(token))

    @property
    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise HeadscopeError(f"{self.name!r} was loaded without a tokenizer, so it cannot read text.")
        return self.tokenizer

    def _written(self, text: str, pictures: int, chat: bool) -> tuple[str, bool]:
        """The text with placeholders, and whether the tokenizer is to add its own tokens."""
        mark = self.placeholder
        plain = text if text.count(mark) else FAMILIES[self.config.model_type].plain(self) * pictures + text
        if not (chat and getattr(self._tokenizer, "chat_template", None)):
            return plain, True
        content = [{"type": "image"}] * pictures + [{"type": "text", "text": text}]
        for turn in (plain if text.count(mark) else content, plain):
            try:
                said = self._tokenizer.apply_chat_template(
                    [{"role": "user", "content": turn}], tokenize=False, add_generation_prompt=True
                )
            except Exception:  # a template for text alone stumbles over parts
                continue
            if said.count(mark) == pictures and said.count(text) == 1:
                return str(said), False
        raise HeadscopeError(f"The chat template of {self.name!r} has no place for pictures; use chat=False.")

    def _views(self, shown: Sequence[Shown], at: Sequence[int]) -> tuple[View, ...]:
        """The views of all pictures, by position in the prompt. `at`: where its image tokens stand."""
        found, first = [], 0
        for picture, one in enumerate(shown):
            found += [
                View(picture, at[first + v.start], v.rows, v.columns, v.stride, v.box) for v in one.views
            ]
            first += one.tokens
        if first != len(at):
            raise HeadscopeError(
                f"The tokenizer of {self.name!r} makes {len(at)} image tokens of {first}: "
                f"is {decode(self._tokenizer, [self.image_token])!r} one of its special tokens?"
            )
        return tuple(found)


def runs(at: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Spans for the runs of consecutive positions `at`: `image`, or `image_1`, ... if several."""
    starts = [i for i, p in enumerate(at) if not i or at[i - 1] != p - 1]
    spans = [(at[a], at[b - 1] + 1) for a, b in zip(starts, [*starts[1:], len(at)], strict=True)]
    return {"image": spans[0]} if len(spans) == 1 else {f"image_{i}": s for i, s in enumerate(spans, 1)}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One after the other; tiles of a picture that has fewer are filled up with zeros."""
    most = [max(sizes) for sizes in zip(*(p.shape[1:] for p in parts), strict=True)]
    padded = []
    for part in parts:
        missing = [m - size for m, size in zip(most, part.shape[1:], strict=True)]
        flat = [amount for gap in reversed(missing) for amount in (0, gap)]
        padded.append(torch.nn.functional.pad(part, flat) if any(missing) else part)
    return torch.cat(padded)


def vision_of(hf: PreTrainedModel, tokenizer: Any, image_processor: Any, name: str) -> Vision | None:
    """The eyes of a model; None for one that reads text alone.

    Raises:
        Refused: see `refuse_unknown`.
    """
    refuse_unknown(hf.config, name)
    return Vision(name, hf.config, tokenizer, image_processor) if has_vision(hf.config) else None
