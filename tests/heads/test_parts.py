"""Parts on disk: what comes back, and damage that must be noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from zoo import tiny

from headscope.heads.parts import read_part, write_part
from headscope.probes import BadFile, Prompt, load, observe


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("part") / "part.safetensors"
    write_part(path, observe(load(tiny("llama")), Prompt("prose", tuple(range(3, 40)))))
    return path.read_bytes()


def test_a_part_comes_back(part: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(part)
    first = read_part(tmp_path / "a")
    write_part(tmp_path / "b", first)
    again = read_part(tmp_path / "b")
    assert again.prompt == first.prompt
    for name in first.mean:
        np.testing.assert_array_equal(again.mean[name], first.mean[name])


@pytest.mark.parametrize("place", [0.0, 0.02, 0.3, 0.5, 0.8, 0.999])
def test_a_changed_byte_is_noticed(part: bytes, place: float, tmp_path: Path) -> None:
    at = int(place * (len(part) - 1))
    (tmp_path / "a").write_bytes(part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :])
    with pytest.raises(BadFile):
        read_part(tmp_path / "a")
