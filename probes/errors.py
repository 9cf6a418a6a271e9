"""The errors a user can cause: one sentence that names the argument, its value and a way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeadscopeError(Exception):
    """Something the user can put right. The command line prints it without a traceback."""


class UnknownName(HeadscopeError, KeyError):
    """A name that is not on its list."""

    def __str__(self) -> str:  # KeyError would show the repr of the sentence
        return str(self.args[0])


class Refused(HeadscopeError):
    """A model that cannot be observed correctly, and why."""


class DidNotFire(HeadscopeError):
    """An attached observer or intervention was bypassed on some layer or step."""


class BadFile(HeadscopeError):
    """A file that is missing, damaged, or not what it claims to be."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UnknownName:
    """Build the error for a misspelt `name`: the nearest valid one first, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownName(f"There is no {kind} {str(name)!r}.{hint} Known: {', '.join(names) or 'none'}.")
