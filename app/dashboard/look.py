"""How a page looks, and the only ways by which text from files reaches it.

Streamlit's own texts are Markdown, in which a name from a file could draw an image from anywhere:
what is not ours goes through `html`, where Markup escapes it, or through `plain`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st
from markupsafe import Markup

from headscope.app.labelmap import theme_variables
from headscope.app.looks import phrase, title, with_error
from headscope.app.palette import Theme, hue_of
from headscope.app.report import environment

if TYPE_CHECKING:
    from jinja2 import Environment

    from headscope.app.headview import Judged
    from headscope.app.roles import Role
    from headscope.heads import HeadMap

_CSS = Path(__file__).with_name("dashboard.css")
_SIGNALS = {
    "light": "--good:#3d7d1f;--bad:#c8401a;--active:#2456c8;",
    "dark": "--good:#8fd06a;--bad:#ff8a5c;--active:#7ba7ff;",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+.!|<>~$:^=&-])")


def theme() -> Theme:
    """The theme the browser shows."""
    return st.context.theme.type or "light"


def install(headmap: HeadMap | None = None) -> None:
    """Style sheet and colours; with a map, the hues of its roles as well."""
    roles = headmap.roles if headmap else []
    css = Markup(_CSS.read_text(encoding="utf-8")) if headmap is None else Markup("")
    colours = theme_variables(roles, theme()) + Markup(_SIGNALS[theme()])
    html(Markup("<style>:root{{{}}}{}</style>").format(colours, css))


def html(content: Markup) -> None:
    """Put markup on the page; only Markup is taken, so that nothing can come here unescaped."""
    if not isinstance(content, Markup):
        raise TypeError("Text must be escaped first: Markup('<p>{}</p>').format(text).")
    st.html(str(content))


def part(name: str, **content: object) -> Markup:
    """A rendered template of `parts/`; everything in it is escaped unless it is Markup."""
    return Markup(_environment().get_template(f"dashboard/parts/{name}.html.j2").render(**content))


@cache
def _environment() -> Environment:
    made = environment().overlay()
    made.filters = {**made.filters, "amount": _amount, "says": _says}
    return made


def _amount(judged: Judged) -> str:
    """A score with its error; a count as a count."""
    counted = judged.error != judged.error and judged.value.is_integer()
    return str(int(judged.value)) if counted else with_error(judged.value, judged.error)


def _says(role: Role) -> str:
    return phrase(role.name, role.info.about if role.info else "")


def plain(text: object) -> str:
    """Text for a label of Streamlit's, with nothing left that Markdown would act on."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def heading(name: str, about: str = "", eyebrow: str = "") -> None:
    """The head of a page."""
    content = Markup('<header class="hs-head"><h1>{}</h1>').format(name)
    if eyebrow:
        content += Markup('<p class="hs-eyebrow">{}</p>').format(eyebrow)
    if about:
        content += Markup('<p class="hs-about">{}</p>').format(about)
    html(content + Markup("</header>"))


def section(name: str, about: str = "") -> None:
    """The head of a part of a page."""
    words = Markup('<p class="hs-about">{}</p>').format(about) if about else Markup("")
    html(Markup('<div class="hs-section"><h2>{}</h2>{}</div>').format(name, words))


def chips(roles: Sequence[str]) -> Markup:
    """Roles in their hues."""
    chip = Markup('<span class="chip" style="--hue:{}">{}</span>')
    return Markup(" ").join(chip.format(hue_of(role), title(role)) for role in roles)


def note(text: str) -> None:
    """A remark."""
    html(Markup('<p class="hs-note">{}</p>').format(text))


def error(text: str) -> None:
    """Something went wrong; what, in one sentence."""
    html(Markup('<p class="hs-error" role="alert">{}</p>').format(text))


def empty(what: str, text: str, command: str = "") -> None:
    """There is nothing to show, and what would change that."""
    line = Markup("<pre><code>{}</code></pre>").format(command) if command else Markup("")
    html(Markup('<div class="hs-empty"><b>{}</b><p>{}</p>{}</div>').format(what, text, line))
