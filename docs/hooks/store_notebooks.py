"""Run the notebooks and store them with their outputs: `python docs/hooks/store_notebooks.py [NAME ...]`.

They run in one empty folder, in the order below, so that the scan of the first serves the others.
What only a terminal needs (colours, bars on their way) and warnings of notebook widgets are left out.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ("command-line", "dashboard", "python", "serving")
_NOISE = ("tqdm", "Stopping...")


def store(name: str, folder: str) -> None:
    """Execute one notebook in `folder` and write it back."""
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, _trimmed(cell.outputs)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def _trimmed(outputs: list[Any]) -> list[Any]:
    """One piece per stream, what was said on the way before the result, as a terminal would leave it."""
    kept: list[Any] = []
    for output in outputs:
        same = [o for o in kept if o.get("name") == output.get("name")]
        if output.output_type == "stream" and same:
            same[0].text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.text).replace("\r\n", "\n")
            lines = [line.split("\r")[-1].rstrip() for line in plain.split("\n")]
            output.text = "\n".join(lines).strip("\n") + "\n"
        elif "execution_count" in output:
            output.execution_count = None
    kept = [o for o in kept if not any(word in o.get("text", "") for word in _NOISE)]
    return sorted(kept, key=lambda o: o.get("name") != "stderr")


if __name__ == "__main__":
    os.environ |= {
        "COLUMNS": "96", "HF_HUB_OFFLINE": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip
    with TemporaryDirectory() as scratch:
        for wanted in sys.argv[1:] or NAMES:
            store(wanted, scratch)
