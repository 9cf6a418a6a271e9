"""The guide builds without a warning, asks nothing of the network, and names every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer

from headscope.app.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built guide. `--strict` makes an error of every broken link, anchor or missing page."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": ".typing/guide", "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Loads(HTMLParser):
    """Everything that a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        link = named.get("href") if tag == "link" else named.get("src")
        if link and tag in ("link", "script", "img", "iframe", "source"):
            self.found.append(link)


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        loads = _Loads()
        loads.feed(page.read_text())
        assert loads.found
        for link in loads.found:
            assert not re.match(r"(\w+:)?//", link), f"{page.name} loads {link}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text()), style


def test_formulas_are_drawn_by_the_browser(site: Path) -> None:
    page = (site / "methods" / "sinks.html").read_text()
    assert page.count("<math") >= 5
    for path in site.rglob("*.html"):
        assert "arithmatex" not in path.read_text(), path


def test_no_marker_is_left(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not re.search(r"<!-- (exam|schema|commands)", path.read_text()), path


def _commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    found = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {sub}": c for sub, c in inner.items()} if inner else {name: command}
    return found


def test_every_command_and_option_is_on_the_page_of_commands(site: Path) -> None:
    page = (site / "commands.html").read_text()
    for name, command in _commands().items():
        assert f'id="{name.replace(" ", "-")}"' in page, name
        for param in command.params:
            if param.param_type_name == "option":
                assert all(option in page for option in param.opts), (name, param.opts)
