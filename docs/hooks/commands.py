"""The command reference: what `--help` says, so that it cannot say anything else."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from headscope.app.cli import app

MARKER = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference where the marker stands."""
    if MARKER not in markdown:
        return markdown
    return markdown.replace(MARKER, "\n\n".join(_section(name, command) for name, command in commands()))


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its full name, those of a group after one another."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {sub}", inner) for sub, inner in command.commands.items())
        else:
            yield name, command


def _section(name: str, command: Any) -> str:
    about, _, examples = (command.help or "").partition("Examples:")
    lines, after = _examples(examples)
    text = " ".join(after)
    parts = [f"## {name} {{ #{name.replace(' ', '-')} }}", about.strip(), text]
    if lines:
        parts.append("\n".join(["```console", *(f"$ {line}" for line in lines), "```"]))
    return "\n\n".join(part for part in (*parts, _table(command)) if part)


def _examples(text: str) -> tuple[list[str], list[str]]:
    """Example commands, and the sentences that stand after them."""
    lines = [line.strip() for line in text.replace("\b", "").splitlines() if line.strip()]
    shown = [line for line in lines if re.match(r"headscope |torchrun ", line)]
    return shown, [line for line in lines if line not in shown]


def _table(command: Any) -> str:
    rows = [_row(p) for p in command.params if p.name != "help"]
    return "\n".join(["| option | default | what it does |", "|---|---|---|", *rows])


def _row(param: Any) -> str:
    if param.param_type_name == "argument":
        name = (param.metavar or param.name).upper()
    else:
        name = ", ".join((*param.opts, *param.secondary_opts))
    text = (getattr(param, "help", None) or "").replace("|", "\\|")
    return f"| `{name}` | {_default(param)} | {text} |"


def _default(param: Any) -> str:
    """Said in words where the command does so; nothing for switches and what is off by default."""
    if isinstance(shown := getattr(param, "show_default", None), str):
        return html.escape(shown)
    if param.required:
        return "needed"
    plain = isinstance(param.default, str | int | float | Path) and not getattr(param, "is_flag", False)
    return f"`{param.default}`" if plain else ""
