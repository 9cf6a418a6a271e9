"""One reference page per room: every public name of its door, from the docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
ROOMS = ("kernels", "probes", "sinks", "heads", "app")


def on_files(files: Files, *, config: Any) -> Files:
    """Add `api/<room>.md` for every room."""
    for room in ROOMS:
        files.append(File.generated(config, f"api/{room}.md", content=_page(room)))
    return files


def _page(room: str) -> str:
    """The room's docstring and, in the order of its door, its public names."""
    about = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text())) or ""
    door = (ROOT / room / "__init__.pyi").read_text()
    named = re.findall(r"^from \.([\w.]+) import (\w+) as", door, re.M)
    entries = [f"::: headscope.{room}.{module}.{name}" for module, name in named if _told(room, module, name)]
    return "\n\n".join([f"# headscope.{room}", about, *entries]) + "\n"


def _told(room: str, module: str, name: str) -> bool:
    """Whether a name stands on its own in its module; constants in a row have nothing to tell."""
    path = ROOT / room / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return re.search(rf"^((class|def) {name}\b|{name}(:.*)? = )", file.read_text(), re.M) is not None
