"""The pages on extending headscope, followed as written in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("app", "heads", "kernels", "probes", "sinks")
PAGES = sorted((ROOT / "docs" / "extend").glob("*.md"))
FILE = re.compile(r'```python title="([^"]+)"\n(.*?)```', re.S)
CODE = re.compile(r"```python\n(.*?)```", re.S)
COMMANDS = re.compile(r"```console\n(.*?)```", re.S)
_RUN = """
import shlex
from typer.testing import CliRunner
from headscope.app.cli import app
for line in {lines!r}:
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    print(line, done.exit_code, done.output)
    assert done.exit_code == (1 if " exam " in line else 0) and not isinstance(done.exception, Exception)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rooms with the files of all pages added to them."""
    root = tmp_path_factory.mktemp("checkout") / "headscope"
    for room in ROOMS:
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__", "*.gguf"))
    for page in PAGES:
        for name, content in FILE.findall(page.read_text()):
            assert not (root / name).exists(), f"{name} exists already"
            (root / name).write_text(content)
    return root.parent


def steps(page: Path) -> str:
    """What a page runs, as one program."""
    found = [(m.start(), m[1]) for m in CODE.finditer(page.read_text())]
    for m in COMMANDS.finditer(page.read_text()):
        lines = [line.removeprefix("$ ") for line in m[1].splitlines()]
        found.append((m.start(), _RUN.format(lines=lines)))
    return "\n".join(code for _, code in sorted(found))


@pytest.mark.model
def test_the_pages_work_as_written(copy: Path, tmp_path: Path) -> None:
    """One process for all pages, which loads the model once."""
    once = "import functools\nfrom headscope import probes\nprobes.load = functools.cache(probes.load)"
    program = "\n".join([once, *(steps(page) for page in PAGES)])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(copy), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for said in ("opened in the year", "No planted head has the role: local"):
        assert said in done.stdout
    for name in ("local", "opened", "clip", "spreadsheet"):
        assert re.search(rf"^ {name} ", done.stdout, re.M), f"headscope list does not name {name}"


def test_the_files_are_linted_like_the_projects_own(copy: Path) -> None:
    files = [copy / "headscope" / name for page in PAGES for name, _ in FILE.findall(page.read_text())]
    assert len(files) == 4
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", *files],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
