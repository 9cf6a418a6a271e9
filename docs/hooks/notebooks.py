"""Executed notebooks as pages: text as text, code as code, stored outputs below it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, *, config: Any) -> Files:
    """Add a page for every notebook; the notebook itself stays, to be downloaded."""
    for notebook in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        text = page(notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
    return files


def page(notebook: Path) -> str:
    """A notebook as Markdown."""
    cells = json.loads(notebook.read_text())["cells"]
    parts = [part for cell in cells for part in _cell(cell)]
    source = f"[This page is a notebook, stored as it ran: {notebook.name}]({notebook.name}){{ .source }}"
    return "\n\n".join([parts[0], source, *parts[1:]]) + "\n"


def _cell(cell: dict[str, Any]) -> list[str]:
    text = "".join(cell["source"]).strip("\n")
    if cell["cell_type"] == "markdown":
        return [text]
    return [_fenced("python", text), *(_output(o) for o in cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    """HTML where there is some, else text."""
    data = output.get("data", {})
    if "text/html" in data:
        # One line, since a blank line would end the HTML.
        text = " ".join("".join(data["text/html"]).split("\n"))
        return f'<div class="output">{text}</div>'
    text = "".join(data.get("text/plain", output.get("text", "")))
    return f'<div class="output" markdown>\n\n{_fenced("text", text.strip(chr(10)))}\n\n</div>'


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"
