"""Tables of fields for the pages about files, from the models that read and write them."""

from __future__ import annotations

import inspect
import re
import types
import typing
from typing import Any

from pydantic import BaseModel

from headscope.app.schemas import KINDS

_MARKER = re.compile(r"<!-- schema: ([\w-]+) -->")
_ATTRIBUTE = re.compile(r"^    (?P<names>\w+(?:, \w+)*): (?P<about>.*(?:\n {8,}.*)*)", re.M)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `<!-- schema: kind -->` by the fields of that kind of file; a model stands once on a page."""
    shown: set[type[BaseModel]] = set()
    return _MARKER.sub(lambda found: _fields_of(found[1], shown), markdown)


def _fields_of(name: str, shown: set[type[BaseModel]]) -> str:
    kind = KINDS[name]
    models = [model for model in _models(kind.model) if model not in shown]
    shown |= set(models)
    tables = [table(model, first=model is kind.model) for model in models]
    link = f"[`{kind.published}`](../schemas/{kind.published}), printed by `headscope schema {name}`."
    return "\n\n".join([*tables, f"JSON Schema: {link}"])


def table(model: type[BaseModel], first: bool = False) -> str:
    """The fields of one model: type, and what its docstring says."""
    about = described(model)
    rows = []
    for name, field in model.model_fields.items():
        kind = _type(field.annotation) + ("" if field.is_required() else ", optional")
        rows.append(f"| `{name}` | {kind} | {about.get(name, '')} |")
    summary = (model.__doc__ or "").strip().splitlines()[0]
    title = [] if first else [f"**{model.__name__.lstrip('_')}**: {summary}", ""]
    return "\n".join([*title, "| field | type | what it is |", "|---|---|---|", *rows])


def described(model: type[BaseModel]) -> dict[str, str]:
    """What the `Attributes:` of a model's docstring, and of those it derives from, say about each field."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        for match in _ATTRIBUTE.finditer(section):
            text = " ".join(match["about"].split()).replace("|", "\\|")
            found |= dict.fromkeys(match["names"].split(", "), text)
    return found


def _models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and the models inside it, each once, outer ones first."""
    found = [model]
    for outer in found:
        for field in outer.model_fields.values():
            found += [m for m in _inside(field.annotation) if m not in found]
    return list(dict.fromkeys(found))


def _inside(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in typing.get_args(annotation) for m in _inside(part)]


def _type(annotation: Any) -> str:
    """A type in words."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is types.NoneType:
        return "null"
    if origin is typing.Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(part) for part in parts)
    if origin is tuple:
        return f"list of {_type(parts[0])}" if parts[-1] is ... else f"[{', '.join(map(_type, parts))}]"
    if origin is dict:
        return f"object of {_type(parts[1])}"
    words = {
        "str": "text", "int": "whole number", "float": "number", "bool": "true or false",
        "HeadId": "text such as `L18H6`", "JsonValue": "any JSON",
    }  # fmt: skip
    name = getattr(annotation, "__name__", str(annotation))
    return words.get(name, name.lstrip("_"))
