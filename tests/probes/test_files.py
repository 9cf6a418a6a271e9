"""Files of ours in surroundings that are not: another locale, no home, names that name nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headscope.probes import BadFile, Circuit, HeadscopeError, Picture, Spec, checkpoints, load
from headscope.probes.gguf import cache_folder

ASCII = """
import sys
from pathlib import Path
from pydantic import BaseModel
from headscope.probes.files import read_json, write_json
class Note(BaseModel):
    text: str
path = Path(sys.argv[1])
write_json(path, Note(text="\\u00fc \\u2192"))
assert read_json(path, Note).text == "\\u00fc \\u2192"
"""


def test_json_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    there = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", ASCII, str(tmp_path / "note.json")]
    done = subprocess.run(command, env=os.environ | there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ü →" in (tmp_path / "note.json").read_text("utf-8")


@pytest.mark.parametrize("read", [load, Picture.open, lambda name: checkpoints([name])])
def test_a_home_that_nobody_knows_is_one_sentence(read: Callable[[str], object]) -> None:
    with pytest.raises(BadFile, match=r"^'~nobody-here/x' begins with a home folder that is not known here"):
        read("~nobody-here/x")


def test_a_cache_needs_a_home_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.delenv("HEADSCOPE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(BadFile, match="home folder that is not known here"):
        cache_folder()


@pytest.mark.parametrize("kind", [Spec, Circuit])
def test_a_name_with_a_nul_is_no_file(kind: type[Spec] | type[Circuit]) -> None:
    with pytest.raises(HeadscopeError, match="embedded null byte"):
        kind.open("a\0b.json")
