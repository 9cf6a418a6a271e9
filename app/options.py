"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelName = Annotated[str, typer.Argument(help="smollm2, a hub id (org/name), a folder, or a .gguf file.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Haystack = Annotated[
    Path | None, typer.Option(help="UTF-8 text to hide needles in, in place of the default.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the GPU when there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="by device")]
Run = Annotated[Path, typer.Argument(help="A run folder of an earlier scan.")]
Scanned = Annotated[str | None, typer.Option(help="The scanned model.", show_default="as the run calls it")]
