"""The address of a view: what is chosen stands in the URL, and the widgets follow it.

A widget writes its choice into the query when it is changed; before it is drawn it takes its
value from there. So every view can be bookmarked, sent and gone back to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from headscope.app.dashboard.look import error, plain
from headscope.probes import unknown

_NONE = "none"  # nothing chosen where something would be by default


def asked(name: str) -> str:
    """What the address says about `name`; empty if nothing."""
    return st.query_params.get(name, "")


def put(**changes: object) -> None:
    """Write into the address, as one step of the browser's history; None takes a name out."""
    before = st.query_params.to_dict()
    after = {n: v for n, v in before.items() if n not in changes}
    after |= {n: str(v) for n, v in changes.items() if v is not None}
    if after != before:
        st.query_params.from_dict(after)


def kept(*prefixes: str) -> dict[str, str]:
    """The part of the address that further views share: names that begin so."""
    return {n: v for n, v in st.query_params.to_dict().items() if n.startswith(prefixes)}


def choose(
    label: str, name: str, options: Sequence[str], default: str, *, say: Callable[[str], str] = str,
    hidden: bool = False, buttons: bool = False, help: str = "",
) -> str:  # fmt: skip
    """One of `options`, as a list to choose from or a row of buttons."""
    key = f"address-{name}"
    wanted = asked(name) or default
    if wanted not in options:
        error(str(unknown(name, wanted, options)))
        wanted = default
    st.session_state[key] = wanted
    how: dict[str, Any] = {
        "key": key, "format_func": lambda o: plain(say(o)) if buttons else say(o), "on_change": _written,
        "args": (name, key, default), "label_visibility": "collapsed" if hidden else "visible",
        "help": plain(help) or None,
    }  # fmt: skip
    if buttons:
        st.segmented_control(label, options, required=True, **how)
    else:
        st.selectbox(label, options, **how)
    return wanted


def several(
    label: str, name: str, options: Sequence[str], default: Sequence[str], *, say: Callable[[str], str] = str
) -> list[str]:
    """Any of `options`, as buttons."""
    key = f"address-{name}"
    wanted = [o for o in asked(name).split(",") if o not in ("", _NONE)] if asked(name) else list(default)
    unheard = [o for o in wanted if o not in options]
    if unheard:
        error(str(unknown(name, unheard[0], options)))
    wanted = [o for o in wanted if o in options]
    st.session_state[key] = wanted
    st.pills(
        label, options, selection_mode="multi", key=key, format_func=lambda o: plain(say(o)),
        on_change=_written, args=(name, key, ",".join(default)),
    )  # fmt: skip
    return wanted


def slide(
    label: str, name: str, low: float, high: float, default: float, *, step: float = 0.0,
    form: str = "%.3f", help: str = "",
) -> float:  # fmt: skip
    """A number between `low` and `high`."""
    key = f"address-{name}"
    wanted = min(max(number(name, default), low), high)
    st.session_state[key] = wanted
    st.slider(
        label, low, high, step=step or _step(high - low), format=form, key=key,
        on_change=_written, args=(name, key, default), help=plain(help) or None,
    )  # fmt: skip
    return wanted


def switch(label: str, name: str, default: bool = False, *, help: str = "") -> bool:
    """Something that is on or off."""
    key = f"address-{name}"
    wanted = asked(name) == "True" if asked(name) else default
    st.session_state[key] = wanted
    st.toggle(label, key=key, on_change=_written, args=(name, key, default), help=plain(help) or None)
    return wanted


def fold(label: str, name: str, default: bool = False) -> Any:
    """A part that can be opened; it is drawn, `if fold(...).open`, only where it is."""
    key = f"address-{name}"
    st.session_state[key] = asked(name) == "True" if asked(name) else default
    return st.expander(label, key=key, on_change=_written, args=(name, key, default))


def count(label: str, name: str, default: int, low: int, high: int) -> int:
    """A whole number, typed."""
    key = f"address-{name}"
    wanted = min(max(int(number(name, default)), low), high)
    st.session_state[key] = wanted
    st.number_input(label, low, high, step=1, key=key, on_change=_written, args=(name, key, default))
    return wanted


def amount(label: str, name: str, default: float, *, whole: bool = False, help: str = "") -> float:
    """Any number, typed; what it may be is for others to say."""
    key = f"address-{name}"
    kind = int if whole else float
    wanted = kind(number(name, default))
    st.session_state[key] = wanted
    st.number_input(
        label, step=kind(1) if whole else 0.1, format="%d" if whole else "%g", key=key,
        on_change=_written, args=(name, key, kind(default)), help=plain(help) or None,
    )  # fmt: skip
    return wanted


def words(label: str, name: str, default: str, *, help: str = "") -> str:
    """A line of text, typed."""
    key = f"address-{name}"
    wanted = asked(name) or default
    st.session_state[key] = wanted
    st.text_input(label, key=key, on_change=_written, args=(name, key, default), help=plain(help) or None)
    return wanted


def number(name: str, default: float) -> float:
    """A finite number from the address, or the default."""
    try:
        value = float(asked(name) or default)
    except ValueError:
        return default
    return value if math.isfinite(value) else default


def index(name: str) -> int:
    """A whole number from the address; -1 where there is none."""
    text = asked(name)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _step(width: float) -> float:
    return float(10 ** math.floor(math.log10(width / 100))) if width > 0 else 0.01


def _written(name: str, key: str, default: object) -> None:
    value = st.session_state[key]
    if isinstance(value, list):
        value = ",".join(value) or _NONE
    put(**{name: None if value in (default, None, "") else value})
