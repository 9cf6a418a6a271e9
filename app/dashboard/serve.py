"""Starting the dashboard's server: this machine only, no telemetry, no watching of files."""

from __future__ import annotations

import importlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from headscope.app.palette import COLOURS, FONT, Theme
from headscope.probes import HeadscopeError, unknown

HOST = "127.0.0.1"
RUNS = "HEADSCOPE_RUNS"  # tells the pages which folder they may read
_THEMES = ("auto", "light", "dark")
_ACCENT = {"light": "#2456c8", "dark": "#4a7be0"}


def address(runs: Path, port: int) -> str:
    """Where the dashboard will be; a single run opens at its map."""
    here = f"http://localhost:{port}"
    return f"{here}/atlas?run={runs.resolve().name}" if is_run(runs) else here


def is_run(path: Path) -> bool:
    """Whether a folder is itself a run rather than a folder of runs."""
    return any((path / name).is_file() for name in ("manifest.json", "headmap.parquet"))


def serve(
    runs: Path,
    *,
    port: int,
    theme: str = "auto",
    browser: bool = True,
    ready: Callable[[], object] = lambda: None,
) -> None:
    """Run the server until it is stopped.

    Args:
        runs: the folder of run folders, or one run folder.
        port: where to listen.
        theme: `auto` follows the browser.
        browser: open a browser window at once, where there is one.
        ready: called when nothing stands in the way any more.

    Raises:
        HeadscopeError: no such folder, no such theme, or a port in use.
    """
    if theme not in _THEMES:
        raise unknown("theme", theme, _THEMES)
    if not runs.is_dir():
        raise HeadscopeError(f"There is no folder {str(runs)!r}; a scan makes one: headscope scan smollm2.")
    _free(port)
    ready()
    folder = runs.resolve()
    os.environ[RUNS] = str(folder.parent if is_run(folder) else folder)
    threading.Thread(target=_warm, daemon=True).start()
    from streamlit.web.cli import main

    script = str(Path(__file__).with_name("main.py"))
    main(["run", script, *options(port, theme, browser)], prog_name="headscope", standalone_mode=False)


def _warm() -> None:
    """Load what every page needs while the browser is still opening."""
    for module in ("figures", "dashboard.atlas", "dashboard.head"):
        importlib.import_module(f"headscope.app.{module}")


def options(port: int, theme: str, browser: bool) -> list[str]:
    """Everything that must not depend on a configuration file somewhere."""
    chosen: dict[str, object] = {
        "server.address": HOST,
        "server.port": port,
        "server.headless": not browser,
        "server.showEmailPrompt": False,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.enableAgentApi": False,
        "server.enableStaticServing": False,
        "server.maxUploadSize": 20,
        "browser.gatherUsageStats": False,
        "browser.serverAddress": "localhost",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "full",
        "client.showErrorLinks": False,
        "logger.hideWelcomeMessage": True,
        "logger.level": "error",
        "theme.font": FONT,
    }
    if theme != "auto":
        chosen["theme.base"] = theme
    for kind in ("light", "dark"):
        chosen |= _colours(kind)
    flags = [f"--{name}={str(v).lower() if isinstance(v, bool) else v}" for name, v in chosen.items()]
    # Other names may be made to point at this machine: a page from elsewhere must not get in by one.
    return [*flags, "--server.allowedHosts=localhost", f"--server.allowedHosts={HOST}"]


def _colours(theme: Theme) -> dict[str, object]:
    c = COLOURS[theme]
    return {
        f"theme.{theme}.primaryColor": _ACCENT[theme],
        f"theme.{theme}.backgroundColor": c["paper"],
        f"theme.{theme}.secondaryBackgroundColor": c["empty"],
        f"theme.{theme}.textColor": c["ink"],
        f"theme.{theme}.borderColor": c["line"],
    }


def _free(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise HeadscopeError(
                f"port {port} cannot be used ({error.strerror or error}); choose another --port."
            ) from None
