"""What a method of intervention can be asked for, read off its settings: forms need no list of their own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from headscope.probes import HeadscopeError, first_fault

if TYPE_CHECKING:
    from headscope.probes import Intervention, Settings

Kind = Literal["switch", "choice", "whole", "number", "wholes"]
_KINDS: dict[str, Kind] = {"boolean": "switch", "integer": "whole", "number": "number", "array": "wholes"}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


@dataclass(frozen=True)
class Option:
    """One setting of a method.

    Attributes:
        name: what the settings, and `--set`, call it.
        kind: yes or no, one of `choices`, a whole number, a number, or whole numbers in a row.
        default: what it is unless one says otherwise.
        choices: what it can be, for a choice.
        bounds: its range in words; empty where every number will do.
        about: what it means, as the settings describe it.
    """

    name: str
    kind: Kind
    default: Any
    choices: tuple[str, ...]
    bounds: str
    about: str

    @property
    def help(self) -> str:
        """One line for a form."""
        said = not self.bounds or self.bounds in self.about
        about = self.about[:1].upper() + self.about[1:].rstrip(".")
        return f"{about}." if said else f"{about}; {self.bounds}."


def options_of(method: Intervention) -> list[Option]:
    """The settings that a user of the method can choose."""
    schema = method.settings.model_json_schema()["properties"] if method.settings.model_fields else {}
    about, defaults = _attributes(method.settings), method.settings().asked()
    return [_option(name, schema[name], default, about) for name, default in defaults.items()]


def chooses_heads(method: Intervention) -> bool:
    """Whether the method finds heads where none are named: those of `probes` decide nothing about heads."""
    return not type(method).__module__.startswith("headscope.probes.")


def checked(method: Intervention, given: Mapping[str, Any]) -> Settings:
    """Settings as they were asked for; text is read as the setting's own kind.

    Raises:
        HeadscopeError: what is wrong with the first that cannot be.
    """
    about = {option.name: option for option in options_of(method)}
    try:
        return method.settings.model_validate(dict(given))
    except ValidationError as error:
        at = str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else ""
        if at not in about:
            raise HeadscopeError(
                f"The settings of {method.name!r} are wrong: {first_fault(error)}."
            ) from error
        valid = ", ".join(about[at].choices) or about[at].bounds or "another kind of value"
        raise HeadscopeError(f"{at} of {method.name!r} is {given[at]!r}; valid: {valid}.") from error


def _option(name: str, schema: Mapping[str, Any], default: Any, about: Mapping[str, str]) -> Option:
    choices = tuple(map(str, schema.get("enum", ())))
    limits = schema.get("items", schema)
    bounds = " and ".join(f"{words} {limits[key]:g}" for key, words in _BOUNDS.items() if key in limits)
    if {"minimum", "maximum"} <= limits.keys():
        bounds = f"{limits['minimum']:g} ... {limits['maximum']:g}"
    kind: Kind = "choice" if choices else _KINDS[schema["type"]]
    return Option(name, kind, default, choices, bounds, about.get(name, ""))


def _attributes(settings: type[Settings]) -> dict[str, str]:
    """What the `Attributes:` of a docstring say about each name, on one line."""
    text = (inspect.getdoc(settings) or "").partition("Attributes:\n")[2]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()).replace("`", "") for name, words in found}
