"""Observations on disk: one safetensors file per prompt, named by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from headscope.heads.storage import write_atomically
from headscope.probes import BadFile, Observation, Picture, Prompt, Recipe, View

LAYOUT = 9  # of a part; raise it when what is observed changes, so that old parts are not reused
_GROUPS = ("exact", "mean", "var", "head", "layer")
_PICTURE = "picture_"


def part_key(fingerprint: str, dtype: str, recipe: Recipe, prompt: Prompt) -> str:
    """The name of a part: a hash of everything its content follows from."""
    content = f"{LAYOUT}:{fingerprint}:{dtype}:{recipe.model_dump_json()}:{prompt.key()}"
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def write_part(path: Path, seen: Observation) -> None:
    """Write one observation, whole or not at all."""
    tensors = {
        f"{group}/{name}": np.ascontiguousarray(array)
        for group in _GROUPS
        for name, array in getattr(seen, group).items()
    }
    tensors |= {"rows": seen.rows, "predicted": seen.predicted, "logprob": seen.logprob}
    prompt = seen.prompt
    tensors |= {f"{_PICTURE}{i}": np.frombuffer(p.png, np.uint8) for i, p in enumerate(prompt.pictures)}
    described = {
        "task": prompt.task, "ids": prompt.ids, "spans": dict(prompt.spans), "answer": prompt.answer,
        "source": prompt.source, "offsets": dict(prompt.offsets), "meta": dict(prompt.meta),
        "views": [asdict(view) for view in prompt.views],
    }  # fmt: skip
    metadata = {"layout": str(LAYOUT), "prompt": json.dumps(described)}
    metadata["digest"] = _digest(tensors, metadata["prompt"])
    write_atomically(path, lambda to: save_file(tensors, to, metadata))


def read_part(path: Path) -> Observation:
    """Read one observation.

    Raises:
        BadFile: missing, damaged, or of another layout.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("layout") != str(LAYOUT):
                raise BadFile(f"The part {path.name!r} has layout {metadata.get('layout')}, not {LAYOUT}.")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["digest"] != _digest(arrays, metadata["prompt"]):
            raise ValueError("its content is not what was written")
        pictures = [arrays.pop(f"{_PICTURE}{i}") for i in range(sum(n.startswith(_PICTURE) for n in arrays))]
        prompt = _prompt(json.loads(metadata["prompt"]), [Picture.decoded(p.tobytes()) for p in pictures])
        groups: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            if rest:
                groups[group][rest] = array
        return Observation(
            prompt=prompt, rows=arrays["rows"], predicted=arrays["predicted"],
            logprob=arrays["logprob"], **groups,
        )  # fmt: skip
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadFile(f"The part {str(path)!r} is damaged: {error}. Delete it and scan again.") from error


def _digest(tensors: Mapping[str, NDArray[Any]], prompt: str) -> str:
    """A hash of everything a part holds: safetensors itself notices no changed byte."""
    digest = hashlib.sha256(prompt.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _prompt(found: dict[str, Any], pictures: Sequence[Picture]) -> Prompt:
    return Prompt(
        task=found["task"],
        ids=tuple(found["ids"]),
        spans={name: (span[0], span[1]) for name, span in found["spans"].items()},
        answer=tuple(found["answer"]) if found["answer"] else None,
        source=tuple(found["source"]),
        offsets={name: tuple(distances) for name, distances in found["offsets"].items()},
        meta=found["meta"],
        pictures=tuple(pictures),
        views=tuple(View(**view | {"box": tuple(view["box"])}) for view in found.get("views", ())),
    )
