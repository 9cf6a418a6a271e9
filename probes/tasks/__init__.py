"""Tasks: one seeded generator of labelled prompts per file."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from headscope.probes import prompts as _prompts


class _Package(ModuleType):
    """This package, answering as the registry of the same name.

    Importing a package sets it as an attribute of its parent, over the registry that
    `headscope.probes.tasks` also stands for; so both have to give the same answers.
    """

    def __getitem__(self, name: str) -> _prompts.Task:
        return _prompts.tasks[name]

    def __iter__(self) -> Iterator[_prompts.Task]:
        return iter(_prompts.tasks)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(_prompts.tasks, name)


sys.modules[__name__].__class__ = _Package
