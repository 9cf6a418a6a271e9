"""Labelled prompts: token ids in which the interesting places are named.

A `Task` makes them, a scan feeds them through a model one prefill each, and detectors read
what was seen at the named places. Positions are token indices into the unpadded prompt.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from headscope.probes.errors import HeadscopeError
from headscope.probes.pictures import Picture
from headscope.probes.registry import Registry


@dataclass(frozen=True)
class Contrast:
    """What makes a prompt one half of an experiment: its twin, in which another answer is right.

    Attributes:
        ids: the counterfactual's token ids up to the answer, as many as the prompt has there. Each
            token plays the part of the one at the same place of the prompt.
        right: ids that count as right for the first token of the prompt's answer.
        wrong: ids that count as wrong there; where the counterfactual has an answer, it is the
            first. Disjoint from `right`.
        pictures: what its image tokens show; the prompt's own pictures where there are none. Image
            tokens stand at the same places.
    """

    ids: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    pictures: tuple[Picture, ...] = ()


def is_image_span(name: str) -> bool:
    """Whether a span's name is that of a run of image tokens: `image`, `image_1`, ..."""
    return re.fullmatch(r"image(_\d+)?", name) is not None


@dataclass(frozen=True)
class View:
    """Where the image tokens of a prompt lie in a picture: a grid of them covers one rectangle.

    A model that cuts pictures into tiles sees several views of one picture.

    Attributes:
        picture: which of the prompt's pictures.
        start: position of the top left token.
        rows, columns: tokens of the grid.
        stride: tokens from one row to the next; `columns`, or one more where a row ends in a token
            of its own.
        box: left, top, right and bottom edge, as fractions of the picture's width and height.
    """

    picture: int
    start: int
    rows: int
    columns: int
    stride: int
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def positions(self) -> tuple[int, ...]:
        """The tokens of the grid, row by row. [rows * columns]"""
        return tuple(
            self.start + row * self.stride + column
            for row in range(self.rows)
            for column in range(self.columns)
        )


@dataclass(frozen=True)
class Prompt:
    """One prompt and its labels.

    Attributes:
        task: name of the task that made it.
        ids: token ids, answer included where there is one (teacher forcing). A picture takes as many
            image tokens as the model gives it.
        spans: named half-open token ranges `[start, stop)`, for example `needle`, `question`.
        answer: the range of the teacher-forced answer, or None. The query rows that predict it
            are `start - 1 ... stop - 2`.
        source: for every answer token, the index of the context token it has to be copied from;
            empty when there is nothing to copy. `ids[source[i]] == ids[answer[0] + i]` holds.
        offsets: named distances back from a query row, each a tuple of token counts: a row at
            position i looks at the keys `i - d`, for example one period back (`echo`).
        meta: what a reader wants to filter by: `kind`, `length`, `depth`, ... (JSON values).
        contrast: the counterfactual of a prompt made for causal tests, or None.
        pictures: what the image tokens show, in order. The runs of image tokens are labelled: the span
            `image`, or `image_1`, `image_2`, ... where there are several.
        views: where in the pictures the image tokens lie.
    """

    task: str
    ids: tuple[int, ...]
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    answer: tuple[int, int] | None = None
    source: tuple[int, ...] = ()
    offsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    contrast: Contrast | None = None
    pictures: tuple[Picture, ...] = ()
    views: tuple[View, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.ids)
        named = dict(self.spans) | ({"answer": self.answer} if self.answer else {})
        for name, (start, stop) in named.items():
            if not 0 <= start < stop <= n:
                raise HeadscopeError(
                    f"The span {name!r} of a {self.task!r} prompt is [{start}, {stop}), "
                    f"which does not lie within its {n} tokens."
                )
        if self.answer and self.answer[0] == 0:
            raise HeadscopeError(f"The answer of a {self.task!r} prompt has no token before it.")
        if self.source:
            copied = tuple(self.ids[j] for j in self.source)
            if not self.answer or copied != self.ids[slice(*self.answer)]:
                raise HeadscopeError(
                    f"The labelled source of a {self.task!r} prompt does not spell its answer."
                )
        if self.contrast:
            self._check_contrast(self.contrast)
        self._check_views()

    def _check_views(self) -> None:
        if self.pictures and not self.image_runs:
            raise HeadscopeError(f"A {self.task!r} prompt has pictures, but no span 'image' says where.")
        image = {p for run in self.image_runs for p in range(*run)}
        for view in self.views:
            if view.picture >= len(self.pictures) or not image.issuperset(view.positions):
                raise HeadscopeError(f"A view of a {self.task!r} prompt does not lie on its image tokens.")

    def _check_contrast(self, contrast: Contrast) -> None:
        if not self.answer or len(contrast.ids) != self.answer[0]:
            raise HeadscopeError(
                f"The counterfactual of a {self.task!r} prompt has {len(contrast.ids)} tokens before "
                f"the answer, the prompt {self.answer[0] if self.answer else 0}; both must agree."
            )
        first = self.ids[self.answer[0]]
        if first not in contrast.right or not contrast.wrong or {*contrast.right} & {*contrast.wrong}:
            raise HeadscopeError(
                f"The right and wrong answers of a {self.task!r} prompt begin with the same token."
            )
        if contrast.pictures and len(contrast.pictures) != len(self.pictures):
            raise HeadscopeError(
                f"The counterfactual of a {self.task!r} prompt shows {len(contrast.pictures)} pictures, the "
                f"prompt {len(self.pictures)}; both must agree."
            )
        image = {p for run in self.image_runs for p in range(*run)}
        tokens = {self.ids[p] for p in image}
        if {i for i, token in enumerate(contrast.ids) if token in tokens} != image:
            raise HeadscopeError(
                f"The image tokens of a {self.task!r} prompt and of its counterfactual stand at other places."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answer_rows(self) -> tuple[int, ...]:
        """The query rows whose logits must produce the answer tokens."""
        return tuple(range(self.answer[0] - 1, self.answer[1] - 1)) if self.answer else ()

    @property
    def image_runs(self) -> tuple[tuple[int, int], ...]:
        """The runs of image tokens `[start, stop)`, in order; empty without a picture."""
        return tuple(sorted(span for name, span in self.spans.items() if is_image_span(name)))

    def key(self) -> str:
        """A hash of everything that can change an observation of this prompt."""
        return self._key

    @cached_property
    def _key(self) -> str:
        content: dict[str, Any] = {
            "task": self.task, "ids": self.ids, "spans": dict(self.spans), "answer": self.answer,
            "source": self.source, "offsets": dict(self.offsets), "meta": dict(self.meta),
        }  # fmt: skip
        if self.contrast:
            shown = [picture.digest for picture in self.contrast.pictures]
            twin = {"ids": self.contrast.ids, "right": self.contrast.right, "wrong": self.contrast.wrong}
            content["contrast"] = twin | ({"pictures": shown} if shown else {})
        if self.pictures:
            content["pictures"] = [picture.digest for picture in self.pictures]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Task(Protocol):
    """A seeded generator of labelled prompts, in its own file under `tasks/`.

    `prompts` must give the same list for the same arguments, on every machine. A task whose prompts
    have pictures says so with `pictures = True`, and gets the model's `Vision` for a tokenizer.
    """

    name: str
    summary: str

    def prompts(
        self,
        tokenizer: Any,
        *,
        lengths: Sequence[int],
        per_length: int,
        seed: int,
        haystack: str | None,
    ) -> list[Prompt]:
        """Make `per_length` prompts for each total token length in `lengths`.

        Args:
            tokenizer: a transformers tokenizer; no token id may be hard-coded.
            lengths: total prompt length in tokens, answer included; a prompt is never longer,
                and shorter by at most a few tokens. Tasks of short prompts, whose prompts carry a
                `contrast`, take it as an upper bound only.
            per_length: prompts for each length (a task spreads its depths, kinds, ... over them).
            seed: everything random follows from it.
            haystack: the text to hide things in; None takes the default haystack.

        Raises:
            HeadscopeError: a haystack too short, a length too small for the task.
        """
        ...


TASKS: Registry[Task] = Registry("task", "headscope.probes.tasks")
