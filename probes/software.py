"""Versions of what a result depends on."""

from __future__ import annotations

import importlib.metadata
import platform


def versions() -> dict[str, str]:
    """Of Python and of the libraries that compute or write results."""
    names = ("headscope", "torch", "transformers", "numpy", "pandas", "pyarrow", "safetensors")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}
