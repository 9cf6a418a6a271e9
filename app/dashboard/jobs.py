"""Scans as child processes: started here, going on by themselves, watched through their files.

The page that starts a scan may be closed or reloaded: who runs it and what it says stand in the
run folder, and how far it is can be counted there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from headscope.probes import BadFile, HeadscopeError

FILE, LOG = "scan.json", "scan.log"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_children: list[subprocess.Popen[bytes]] = []


class Job(BaseModel):
    """`scan.json`: the process that scans, and what it was asked.

    Attributes:
        pid, born: the process; its number may be given again, its time of birth is not.
        started: UTC, ISO 8601.
        model, preset, context, seed: the options of `headscope scan`; context 0 is the preset's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int = 0
    born: float = 0.0
    started: str = ""
    model: str
    preset: str = "standard"
    context: int = 0
    seed: int = 0

    def command(self, folder: Path) -> list[str]:
        """What is run; the model comes last and behind `--`, so that it can never be an option."""
        options = ["--preset", self.preset, "--seed", str(self.seed), "--out", str(folder)]
        options += ["--context", str(self.context)] if self.context else []
        return [sys.executable, "-m", "headscope.app", "scan", *options, "--", self.model]


def checked_name(name: str) -> str:
    """`name`, if it can name a run.

    Raises:
        HeadscopeError: it is no plain name of a file.
    """
    if not _NAME.fullmatch(name):
        raise HeadscopeError(
            f"name is {name!r}; a run's name has letters, digits, '.', '_' and '-', and begins with one of "
            "the first two."
        )
    return name


def start(root: Path, name: str, job: Job) -> Path:
    """Start, or go on with, the scan in `root`/`name`.

    Raises:
        HeadscopeError: a name that is no plain folder name, or a scan that runs already.
    """
    folder = root / checked_name(name)
    if folder.is_symlink() or folder.is_file():
        raise HeadscopeError(f"{name!r} is taken by something that is no run folder; choose another name.")
    if (folder / FILE).exists() and alive(folder):
        raise HeadscopeError(f"The scan of {name!r} is running already.")
    from headscope.probes import write_json

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("wb") as log:
        child = subprocess.Popen(
            job.command(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    _children.append(child)
    born = psutil.Process(child.pid).create_time()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / FILE, job.model_copy(update={"pid": child.pid, "born": born, "started": now}))
    return folder


def read(folder: Path) -> Job:
    """Who scans this folder.

    Raises:
        BadFile: nobody that we know of, or a damaged file.
    """
    from headscope.probes import read_json

    return read_json(folder / FILE, Job)


def alive(folder: Path) -> bool:
    """Whether the process that scans this folder is still there."""
    return _process(folder) is not None


def stop(folder: Path) -> None:
    """Ask the scan to stop; what it has observed is kept."""
    process = _process(folder)
    if process:
        process.terminate()
        psutil.wait_procs([process], timeout=5)


def last_words(folder: Path) -> str:
    """The last line of what the scan has said; empty where it said nothing."""
    log = folder / LOG
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4000))
        text = stream.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _process(folder: Path) -> psutil.Process | None:
    for child in list(_children):  # the dead must be asked for, or they stay in the list of processes
        if child.poll() is not None:
            _children.remove(child)
    try:
        job = read(folder)
        process = psutil.Process(job.pid)
        same = abs(process.create_time() - job.born) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (BadFile, psutil.Error, ValueError):
        return None
    return process if same else None
