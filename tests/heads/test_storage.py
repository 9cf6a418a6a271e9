"""Files appear whole or not at all, also when there is no room for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headscope.heads.parts import read_part, write_part
from headscope.heads.storage import write_atomically
from headscope.probes import BadFile, Observation, Prompt

# A limit on the size of files fails like a full disk: in the middle of a write.
FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import numpy as np, pandas as pd
from headscope.heads.parts import write_part
from headscope.heads.storage import write_table
from headscope.probes import BadFile
from test_storage import observation
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
folder = Path(sys.argv[1])
table = pd.DataFrame({"x": np.random.default_rng(0).random(5000)})
for write in (lambda: write_part(folder / "a", observation()), lambda: write_table(folder / "b", table)):
    try:
        write()
    except BadFile as error:
        print(error)
"""


def observation() -> Observation:
    big = {"top_key": np.arange(4000).reshape(1, 1, 4, 1000)}
    small = {"x": np.zeros((1, 1), np.float32)}
    prompt = Prompt("needle", tuple(range(40)), {"needle": (1, 9)}, (30, 34), meta={"depth": 0.5})
    return Observation(
        prompt, big, np.arange(4), small, small, small, small, np.arange(4), np.zeros(4, np.float32)
    )


def test_a_part_comes_back_as_it_was(tmp_path: Path) -> None:
    write_part(tmp_path / "part", observation())
    again = read_part(tmp_path / "part")
    assert again.prompt == observation().prompt
    assert (again.exact["top_key"] == observation().exact["top_key"]).all()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path), here], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2, done.stdout
    assert all("cannot be written" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(to: Path) -> None:
        to.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(BadFile, match="No space left on device"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_who_reads_while_it_is_replaced_reads_the_old_file_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as reader:
        write_atomically(path, lambda to: to.write_text("new"))
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_a_damaged_part_says_so(tmp_path: Path) -> None:
    write_part(tmp_path / "part", observation())
    whole = (tmp_path / "part").read_bytes()
    for cut in (0, 7, 100, len(whole) - 1):
        (tmp_path / "part").write_bytes(whole[:cut])
        with pytest.raises(BadFile, match="is damaged"):
            read_part(tmp_path / "part")
