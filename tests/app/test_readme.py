"""The README's Python runs as written, and its commands after it; so do the guide's notebooks."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text()
GUIDE = README.parent / "docs"
NOTEBOOKS = sorted((GUIDE / "notebooks").glob("*.ipynb"))
PAGES = [
    *(p for folder in ("methods", "files") for p in sorted((GUIDE / folder).glob("*.md"))),
    *(GUIDE / name for name in ("circuits.md", "dynamics.md", "vision.md")),
]
ENVIRONMENT = os.environ | {
    "HF_HUB_OFFLINE": "1",
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}
_PRELUDE = """
import functools, shlex
from typer.testing import CliRunner
from headscope import heads, probes
from headscope.app.cli import app
probes.load, heads.scan = functools.cache(probes.load), functools.cache(heads.scan)

def _run(line, wrong):
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == (2 if wrong else 0), (line, done.output)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where the README's Python ran, and what it said."""
    folder = tmp_path_factory.mktemp("readme")
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) >= 3
    return folder, _python("\n".join(blocks), folder)


def _python(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.model
def test_notebooks_and_pages_run_as_stored(ran: tuple[Path, str]) -> None:
    """All of them in one process that loads the model and scans once: the README has made their run."""
    assert len(NOTEBOOKS) == 4
    program = [_PRELUDE, "probes.write_planted('planted')"]
    lines = re.findall(r"^\$ (headscope .*)$", (GUIDE / "dynamics.md").read_text(), re.M)
    program += [f"_run({line!r}, False)" for line in lines]
    for page in PAGES:
        program += re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    for notebook in NOTEBOOKS:
        for cell in json.loads(notebook.read_text())["cells"]:
            if cell["cell_type"] == "code":
                assert all(output["output_type"] != "error" for output in cell["outputs"])
                program.append(_as_python("".join(cell["source"])))
    said = _python("\n".join(program), ran[0])
    for text in ("looks at ' Paris'", "untouched:  7391824", "of the bytes stay", "/head?run=first"):
        assert text in said


def _as_python(source: str) -> str:
    """A cell of shell commands as calls of the command line in this process."""
    magic, _, lines = source.partition("\n")
    if not magic.startswith("%%bash"):
        return source
    wrong = "--no-raise-error" in magic
    calls = [line.split("|")[0] for line in lines.splitlines() if not line.startswith("headscope scan")]
    return "\n".join(f"_run({line!r}, {wrong})" for line in calls)


@pytest.mark.model
def test_examples_run_as_written(ran: tuple[Path, str]) -> None:
    folder, said = ran
    assert "retrieval_se" in said
    commands = re.findall(r"^\$ (headscope .*)$", TEXT, re.M)
    assert len(commands) >= 6
    for command in commands:
        if command.startswith("headscope scan"):  # the Python above has just made the same run
            continue
        program = [sys.executable, "-m", "headscope.app", *shlex.split(command)[1:]]
        done = subprocess.run(program, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout.strip(), command


def test_everything_named_exists() -> None:
    root = README.parent
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT):
        assert (root / picture).is_file(), picture
    for folder in re.findall(r"`((?:probes|heads|benchmarks|docs)/[\w/.]*)`", TEXT):
        assert (root / folder).exists(), folder
