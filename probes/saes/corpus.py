"""Text to learn features from: files, the default haystack, Python's library, the model's own samples.

A corpus is windows of equal length, each beginning as the model expects a text to begin. It lies in a
file that goes away with it and is read by the window, so that its size takes no memory.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.errors import HeadscopeError
from headscope.probes.haystack import clean, default_text
from headscope.probes.saes.sampling import openings, sample

if TYPE_CHECKING:
    from headscope.probes.model import Model

_PIECE = 100_000  # characters tokenised at once
_BLOCK = 32  # neighbouring windows that are held out together
_LEAST = 8  # windows, of which at least one is held out
_NOT_LIBRARY = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "pydoc_data"}


def _haystack() -> Iterator[str]:
    yield default_text()


def _topics() -> Iterator[str]:
    """The reference topics that `help()` shows, tables, grammar and code included."""
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))


def _library() -> Iterator[str]:
    """Python's own reference topics and standard library: English, docstrings and code."""
    yield from _topics()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).parts[:-1]
        if not _NOT_LIBRARY & set(inside):
            with suppress(HeadscopeError):  # one odd file among thousands
                yield from _file(path)


TEXTS: dict[str, tuple[Callable[[], Iterator[str]], str]] = {
    "haystack": (_haystack, "the default haystack, about 190,000 characters of English"),
    "library": (_library, "Python's reference topics and standard library: English, docstrings, code"),
}
"""Texts that every installation has; beside them, `samples` and paths of UTF-8 files."""


@dataclass(frozen=True)
class Corpus:
    """Windows of token ids.

    Attributes:
        windows: read from disk as they are asked for. int32 [n, context]
        names: the texts it was made of.
        digest: SHA-256 of the ids.
        learned, held: numbers of the windows to learn from, and of those held out. Neighbours are
            held out together, so that little of a held-out text was learned from.
    """

    windows: NDArray[np.int32]
    names: tuple[str, ...]
    digest: str
    learned: NDArray[np.int64]
    held: NDArray[np.int64]

    def ids(self, numbers: NDArray[np.int64]) -> Tensor:
        """Token ids of some windows. [len(numbers), context]"""
        return torch.from_numpy(np.ascontiguousarray(self.windows[numbers])).long()


def build_corpus(
    model: Model,
    texts: Sequence[str],
    *,
    context: int = 256,
    samples: int = 0,
    held_out: float = 0.05,
    seed: int = 0,
    done: Callable[[str, int], object] = lambda name, tokens: None,
) -> Corpus:
    """Read, tokenise or sample texts, one after another, into windows.

    Args:
        model: whose tokenizer, and who samples.
        texts: names out of `TEXTS`, `samples`, or paths of UTF-8 files.
        context: tokens of a window.
        samples: tokens that the model writes itself, where `samples` is among the texts.
        held_out: share of the windows to measure on.
        seed: of the samples and of which windows are held out.
        done: called with the text's name and the tokens of it so far.

    Raises:
        HeadscopeError: no tokenizer, an unreadable file, too little text, a context too long.
    """
    _check(model, texts, context, samples, held_out)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the corpus reads it as long as it lives
    digest, rows = hashlib.sha256(), 0
    for name in texts:
        made, own = 0, name == "samples"
        for batch in _sampled(model, samples, context, seed) if own else _read(model, name, context):
            data = np.ascontiguousarray(batch, dtype=np.int32).tobytes()
            digest.update(data)
            file.write(data)
            made += len(batch)
            done(name, made * context)
        rows += made
    file.flush()
    if rows < _LEAST:
        raise HeadscopeError(
            f"The texts fill {rows} windows of {context} tokens; at least {_LEAST} are needed."
        )
    windows = np.memmap(file, np.int32, "r", shape=(rows, context))
    learned, held = _split(rows, held_out, seed)
    return Corpus(windows, tuple(texts), digest.hexdigest(), learned, held)


def _check(model: Model, texts: Sequence[str], context: int, samples: int, held_out: float) -> None:
    if not texts:
        raise HeadscopeError(f"There is no text; known are {', '.join(TEXTS)}, samples, and files.")
    if "samples" in texts and samples < context:
        raise HeadscopeError(f"samples is {samples} tokens, less than one window of {context}.")
    if not 0 < held_out < 1:
        raise HeadscopeError(f"held_out is {held_out}, but must lie between 0 and 1.")
    room = model.geometry.context
    if context < 8 or (room and context > room):
        raise HeadscopeError(
            f"context is {context} tokens; {model.name!r} takes 8 to {room or 'any number'}."
        )


def _split(rows: int, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the windows to learn from and of those held out, by blocks of neighbours."""
    block = max(1, min(_BLOCK, rows // 40))
    blocks = -(-rows // block)
    drawn = np.random.default_rng(seed).permutation(blocks)[: max(1, round(held_out * blocks))]
    outside = np.isin(np.arange(rows) // block, drawn)
    return np.flatnonzero(~outside), np.flatnonzero(outside)


def _read(model: Model, name: str, context: int) -> Iterator[NDArray[np.int32]]:
    """Windows of one text. The documents stand one behind the other, told apart where the tokenizer can."""
    if model.tokenizer is None:
        raise HeadscopeError(f"{model.name!r} was loaded without a tokenizer, so it cannot read text.")
    tokenizer: Any = model.tokenizer
    head = list(tokenizer("")["input_ids"])
    head = head[
        : len(head) - (len(head) > 0 and head[-1] == tokenizer.eos_token_id != tokenizer.bos_token_id)
    ]
    apart = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    body, waiting = context - len(head), list[int]()
    for piece in TEXTS[name][0]() if name in TEXTS else _file(Path(name)):
        ids = tokenizer(clean(piece), add_special_tokens=False, verbose=False)["input_ids"]
        waiting += [*ids, *apart] if ids else []
        whole = len(waiting) // body
        if whole:
            found = np.array(waiting[: whole * body], np.int32).reshape(whole, body)
            yield np.concatenate([np.tile(np.array(head, np.int32), (whole, 1)), found], 1)
            waiting = waiting[whole * body :]


def _file(path: Path) -> Iterator[str]:
    """A file in pieces that end with a line."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            while lines := stream.readlines(_PIECE):
                piece = "".join(lines)
                if "\0" in piece:
                    raise HeadscopeError(f"The text {str(path)!r} is a binary file.")
                yield piece
    except OSError as error:
        raise HeadscopeError(f"The text {str(path)!r} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise HeadscopeError(f"The text {str(path)!r} is not UTF-8 text.") from None


def _sampled(model: Model, tokens: int, context: int, seed: int) -> Iterator[NDArray[np.int32]]:
    """Windows that the model writes, the same number from each opening it knows."""
    known = openings(model)
    rows = -(-tokens // context // len(known))
    return chain.from_iterable(
        sample(model, opening, rows, context, seed + i) for i, opening in enumerate(known)
    )
