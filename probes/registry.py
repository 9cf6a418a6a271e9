"""A strict list of named things (tasks, detectors, ...), filled by the modules of some packages.

A new entry is one new file: the registry imports every module of its packages when it is first
asked, so that nothing has to be listed twice.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from headscope.probes.errors import unknown


class Named(Protocol):
    """What can be registered: anything with a name and a docstring."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)
C = TypeVar("C", bound=Callable[[], Named])


class Registry(Generic[T]):
    """Entries of one `kind`, found in the modules of `packages`, in alphabetical order."""

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self._packages = packages
        self._entries: dict[str, T] = {}
        self._loaded = False

    def add(self, entry: T) -> T:
        """Register `entry`; a second entry of the same name is a programming error."""
        if entry.name in self._entries:
            raise ValueError(f"There are two {self.kind}s called {entry.name!r}.")
        self._entries[entry.name] = entry
        return entry

    def register(self, make: C) -> C:
        """Class decorator: register one instance of the class."""
        self.add(make())  # type: ignore[arg-type]
        return make

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            for name in self._packages:
                package = importlib.import_module(name)
                for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
                    importlib.import_module(f"{name}.{module}")

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[T]:
        self._load()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return [entry.name for entry in self]
