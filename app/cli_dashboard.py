"""`headscope app`: the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headscope.app.terminal import err, guarded


@guarded
def app_command(
    runs: Annotated[Path, typer.Argument(help="The folder of run folders, or one run folder.")] = Path(
        "runs"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where on this machine it listens.")] = 8501,
    theme: Annotated[str, typer.Option(help="auto (the browser's), light or dark.")] = "auto",
    browser: Annotated[bool, typer.Option(help="Open it in the browser at once.")] = True,
) -> None:
    """Explore runs in the browser: every head, sinks, comparisons, policies.

    It listens on this machine only, and reads nothing outside the runs folder.

    Examples:

      headscope app

      headscope app runs --port 8600 --no-browser

      headscope app runs/smollm2 --theme dark
    """
    from headscope.app.dashboard.serve import address, serve

    where = address(runs, port)
    serve(
        runs, port=port, theme=theme, browser=browser,
        ready=lambda: err().print(
            f"headscope is at {where} for the runs in {runs}; stop it with Ctrl+C.", markup=False
        ),
    )  # fmt: skip
