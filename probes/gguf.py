"""GGUF files: dequantised once, kept as safetensors, loaded from there ever after."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from headscope.probes.errors import BadFile, HeadscopeError
from headscope.probes.files import home_path
from headscope.probes.modelfolder import complete, reason
from headscope.probes.quiet import quiet

_LAYOUT = 1  # of the cached folder; raise it when what is saved changes


def cache_folder() -> Path:
    """Where converted models are kept: $HEADSCOPE_CACHE, or headscope/ in the user's cache folder."""
    base = os.environ.get("HEADSCOPE_CACHE")
    if base:
        return home_path(base)
    return home_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "headscope"


def dequantised(file: Path) -> Path:
    """The folder of safetensors made from a GGUF file, made now if need be.

    The folder's name follows from the file's content, and it appears whole or not at all.

    Raises:
        BadFile: the file is not GGUF, is damaged, or the cache cannot be written.
    """
    _check_magic(file)
    folder = cache_folder() / f"gguf-{_digest(file)}-{_LAYOUT}"
    if not (folder / "config.json").is_file():
        _convert(file, folder)
    return folder


def _check_magic(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise BadFile(f"The GGUF file {str(file)!r} cannot be read: {error.strerror}.") from error
    if magic != b"GGUF":
        raise BadFile(f"The file {str(file)!r} is not GGUF: it begins with {magic!r}, not b'GGUF'.")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    except OSError as error:
        raise BadFile(
            f"The model cache {str(folder.parent)!r} cannot be written: {error.strerror}."
        ) from error
    where = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
            loaded = AutoModelForCausalLM.from_pretrained(
                file.parent,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                **where,
            )
            model = complete(str(file), loaded)
            model.config.architectures = [type(model).__name__]
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
        _publish(fresh, folder)
    except HeadscopeError:
        raise
    except OSError as error:
        raise BadFile(f"The dequantised model could not be written to {str(folder)!r}: {error}") from error
    except Exception as error:
        raise BadFile(
            f"The GGUF file {str(file)!r} is damaged or of an unknown kind: {reason(error)}"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _publish(fresh: Path, folder: Path) -> None:
    """Move the finished folder into place; another process may have been faster."""
    try:
        fresh.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise
