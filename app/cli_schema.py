"""`headscope schema`: the JSON Schemas of all files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headscope.app.terminal import guarded, out, say_json


@guarded
def schema(
    kind: Annotated[str | None, typer.Argument(help="A kind of file.", show_default="list them")] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The file to write; without a kind, a folder for all.",
            show_default="standard output",
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of a kind of file, or list the kinds.

    Of a table (.parquet) it describes the JSON in the file's metadata.

    Examples:

      headscope schema

      headscope schema policy

      headscope schema spec --out spec.schema.json

      headscope schema --out schemas
    """
    from headscope.app.schemas import KINDS, schema_of, write_schema, write_schemas

    if kind is not None and target is not None:
        write_schema(kind, target)
    elif kind is not None:
        say_json(schema_of(kind).rstrip("\n"))
    elif target is not None:
        write_schemas(target)
    else:
        from headscope.app.tables import plain_table

        table = plain_table("Kinds of files", "name", "file", "what it holds")
        for entry in KINDS.values():
            table.add_row(entry.name, entry.file, entry.about)
        out().print(table)
