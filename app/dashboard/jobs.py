"""Scans and fits as child processes: started here, going on by themselves, watched through their files.

The page that starts one may be closed or reloaded: who runs it and what it says stand in the run
folder, and how far it is can be read there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, TypeVar

import psutil
from pydantic import BaseModel, ConfigDict

from headscope.probes import BadFile, HeadscopeError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_HEADSCOPE = (sys.executable, "-m", "headscope.app")
_children: list[subprocess.Popen[bytes]] = []


class Job(BaseModel):
    """A process that works on a run folder, and what it was asked; a folder has one of each kind.

    Attributes:
        FILE, LOG: where in the run folder it stands, and where its output does.
        pid, born: the process; its number may be given again, its time of birth is not.
        started: UTC, ISO 8601.
        model: comes last on its command line and behind `--`, so that it can never be an option.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    FILE: ClassVar[str]
    LOG: ClassVar[str]

    pid: int = 0
    born: float = 0.0
    started: str = ""
    model: str

    def command(self, folder: Path) -> list[str]:
        """What is run."""
        raise NotImplementedError


class Scan(Job):
    """`scan.json`: the process that scans, and what it was asked.

    Attributes:
        pid, born: the process; its number may be given again, its time of birth is not.
        started: UTC, ISO 8601.
        model, preset, context, seed: the options of `headscope scan`; context 0 is the preset's.
    """

    FILE = "scan.json"
    LOG = "scan.log"

    preset: str = "standard"
    context: int = 0
    seed: int = 0

    def command(self, folder: Path) -> list[str]:
        options = ["--preset", self.preset, "--seed", str(self.seed), "--out", str(folder)]
        options += ["--context", str(self.context)] if self.context else []
        return [*_HEADSCOPE, "scan", *options, "--", self.model]


class Fit(Job):
    """`fit.json`: the process that fits an intervention, and what it was asked.

    Attributes:
        pid, born: the process; its number may be given again, its time of birth is not.
        started: UTC, ISO 8601.
        model, method, options: those of `headscope intervene`.
        spec: the file that it writes, in the run folder.
    """

    FILE = "fit.json"
    LOG = "fit.log"

    method: str
    options: tuple[str, ...] = ()
    spec: str

    def command(self, folder: Path) -> list[str]:
        options = [*self.options, "--prompts", "0", "--out", str(folder / self.spec)]
        return [*_HEADSCOPE, "intervene", *options, "--", self.method, self.model]


J = TypeVar("J", bound=Job)


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


def scan(root: Path, name: str, job: Scan) -> Path:
    """Start, or go on with, the scan in `root`/`name`.

    Raises:
        HeadscopeError: a name that is no plain folder name; see `start`.
    """
    folder = root / checked_name(name)
    if folder.is_symlink() or folder.is_file():
        raise HeadscopeError(f"{name!r} is taken by something that is no run folder; choose another name.")
    start(folder, job)
    return folder


def start(folder: Path, job: Job) -> None:
    """Start a job on a run folder.

    Raises:
        HeadscopeError: one of its kind runs already, or the folder cannot be written.
    """
    if alive(folder, type(job)):
        raise HeadscopeError(f"The {type(job).__name__.lower()} of {folder.name!r} is running already.")
    from headscope.probes import write_json, writing

    with writing(folder / job.LOG):
        folder.mkdir(parents=True, exist_ok=True)
        log = (folder / job.LOG).open("wb")
    with log:
        child = subprocess.Popen(
            job.command(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    _children.append(child)
    born = psutil.Process(child.pid).create_time()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / job.FILE, job.model_copy(update={"pid": child.pid, "born": born, "started": now}))


def read(folder: Path, kind: type[J]) -> J:
    """Who works on this folder.

    Raises:
        BadFile: nobody that we know of, or a damaged file.
    """
    from headscope.probes import read_json

    return read_json(folder / kind.FILE, kind)


def alive(folder: Path, kind: type[Job]) -> bool:
    """Whether the process of this kind that works on the folder is still there."""
    return _process(folder, kind) is not None


def stop(folder: Path, kind: type[Job]) -> None:
    """Ask the job to stop; what a scan has observed is kept."""
    process = _process(folder, kind)
    if process:
        process.terminate()
        psutil.wait_procs([process], timeout=5)


def last_words(folder: Path, kind: type[Job]) -> str:
    """The last line of what the job has said; empty where it said nothing."""
    log = folder / kind.LOG
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4000))
        text = stream.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _process(folder: Path, kind: type[Job]) -> psutil.Process | None:
    for child in list(_children):  # the dead must be asked for, or they stay in the list of processes
        if child.poll() is not None:
            _children.remove(child)
    try:
        job = read(folder, kind)
        process = psutil.Process(job.pid)
        same = abs(process.create_time() - job.born) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (BadFile, psutil.Error, ValueError):
        return None
    return process if same else None
