"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

_USUAL = ("headscope", "torch", "transformers", "numpy", "pandas", "pyarrow", "safetensors")


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of these packages; without any, of those that compute or write results.

    A package that is run from its sources has none.
    """
    found = {"python": platform.python_version()}
    for name in packages or _USUAL:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
