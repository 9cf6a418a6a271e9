"""What a folder with a model in it may say, and what of it is not believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headscope.probes.errors import BadFile
from headscope.probes.files import first_fault

_NAMED = 3  # missing weights that a sentence names


def check_index(folder: Path) -> None:
    """Refuse a folder whose index of weights leads to files elsewhere.

    Raises:
        BadFile: such an index, or one that cannot be read.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadFile(f"{str(index)!r} is no index of weights: {error!r:.80}.") from error
        away = [f for f in sorted(map(str, files)) if Path(f).name != f or f == ".."]
        if away:
            raise BadFile(f"{str(index)!r} names {away[0]!r}; weights must lie in the model's own folder.")


def trusted(config: Any) -> Any:
    """A configuration that no longer chooses who computes attention: the choice may be code from the hub."""
    config._attn_implementation = None
    config._experts_implementation = None
    return config


def complete(name: str, loaded: Any) -> Any:
    """A model all of whose weights were in its files; transformers would go on with random ones.

    Args:
        name: what the model is called.
        loaded: what `from_pretrained` returns with `output_loading_info`.

    Raises:
        BadFile: some were in no file.
    """
    model, found = loaded
    lacking = sorted(found["missing_keys"])
    if lacking:
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        raise BadFile(
            f"The model {name!r} could not be loaded: its files lack weights that its config.json speaks of, "
            f"{', '.join(lacking[:_NAMED])}{more}."
        )
    return model


def reason(error: Exception) -> str:
    """What transformers complains of, in one line."""
    if "ignore_mismatched_sizes" in str(error):  # it speaks of a table that it has printed
        return "its weights have other shapes than its config.json says"
    return first_fault(error)
