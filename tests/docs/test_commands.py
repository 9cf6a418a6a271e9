"""Every command that the guide or the README names is one that its program accepts."""

from __future__ import annotations

import argparse
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from headscope.app.cli import app

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("docs/notebooks/*.ipynb")))
_FENCED = re.compile(r"```(\w*).*?\n(.*?)```", re.S)
_LEFT_OUT = "…"


def _text(page: Path) -> str:
    """A page; of a notebook its cells, those of commands in fences."""
    if page.suffix == ".md":
        return page.read_text()
    cells = [("".join(c["source"]), c["cell_type"]) for c in json.loads(page.read_text())["cells"]]
    return "\n".join(
        f"```bash\n{source}\n```" if kind == "code" and source.startswith("%%bash") else source
        for source, kind in cells
    )


def _commands(page: Path) -> Iterator[tuple[str, bool]]:
    """Commands in fences, which are whole, and those in a sentence."""
    text = _text(page)
    for language, block in _FENCED.findall(text):
        if language in ("console", "bash"):
            yield from ((re.sub(r"^\$ | +# .*| [|>] .*", "", line), True) for line in block.splitlines())
    for inline in re.findall(r"`([^`]+)`", _FENCED.sub("", text)):
        yield " ".join(inline.split()), False


def _named(program: str) -> list[tuple[str, str, bool]]:
    """Page, arguments, whether whole, of every command that begins so."""
    begins = re.compile(f"(?:{program})(.*)$")
    found = [(str(page.relative_to(ROOT)), *command) for page in PAGES for command in _commands(page)]
    return sorted({(page, m[1], whole) for page, line, whole in found if (m := begins.match(line))})


HEADSCOPE = _named(r"headscope |torchrun --nproc-per-node \d+ -m headscope\.app ")
SCRIPTS = _named(r"(?:PYTHONPATH=\.typing )?python (?=benchmarks/|-m headscope\.)")


def _parsers() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    found = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {sub}": c for sub, c in inner.items()} if inner else {name: command}
    return found


@pytest.mark.parametrize(("page", "line", "whole"), HEADSCOPE, ids=[f"{p}: {c}" for p, c, _ in HEADSCOPE])
def test_headscope_accepts(page: str, line: str, whole: bool) -> None:
    """Every option exists and takes that kind of value; a sentence may leave arguments out."""
    words, parsers = shlex.split(line), _parsers()
    name = " ".join(words[:2]) if " ".join(words[:2]) in parsers else words[0]
    assert name in parsers, f"{page}: there is no command {line!r}"
    try:
        parsers[name].make_context(name, [w for w in words[len(name.split()) :] if w != _LEFT_OUT])
    except Exception as error:
        # Typer's option parser is its own or click's, by version; the names are the same.
        if whole or type(error).__name__ != "MissingParameter":
            pytest.fail(f"{page}: headscope {line}: {error}")


class _Parsed(Exception):
    """Raised in place of the work."""


@pytest.mark.parametrize("line", sorted({line for _, line, _ in SCRIPTS}))
def test_scripts_accept(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script exists, and its parser takes every option and misses none."""
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser, *given: Any) -> Any:
        parse(parser, *given)
        raise _Parsed

    words = shlex.split(line)
    script = words[1].replace(".", "/").replace("headscope/", "") + ".py" if words[0] == "-m" else words[0]
    if "parse_args" not in (ROOT / script).read_text():
        assert words == [script]
        return
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr(sys, "argv", [script, *words[words[0] == "-m" :][1:]])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    with pytest.raises(_Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")
