"""The README's Python runs as written, and its commands after it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text()


@pytest.mark.model
def test_examples_run_as_written(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) >= 3
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "retrieval_se" in done.stdout
    commands = re.findall(r"^\$ (headscope .*)$", TEXT, re.M)
    assert len(commands) >= 6
    for command in commands:
        if command.startswith("headscope scan"):  # the Python above has just made the same run
            continue
        program = [sys.executable, "-m", "headscope.app", *shlex.split(command)[1:]]
        ran = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, f"{command}: {ran.stderr}"
        assert ran.stdout.strip(), command


def test_everything_named_exists() -> None:
    root = README.parent
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT):
        assert (root / picture).is_file(), picture
    for folder in re.findall(r"`((?:probes|heads|benchmarks|docs)/[\w/.]*)`", TEXT):
        assert (root / folder).exists(), folder
