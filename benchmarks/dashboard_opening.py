"""How fast the dashboard opens runs, and how fast a click reaches a head, in a real browser.

    python benchmarks/dashboard_opening.py --out benchmarks/results/dashboard_opening.json

Synthetic runs of 30 x 9, 80 x 64 and 126 x 128 heads, with evidence, are written to a temporary
folder and opened in Chromium from a server started for the purpose; one visit warms it up. Opening
is the time from the request to the map, or a head's scores, drawn, in a fresh browser context with an empty
cache; a click counts until the head's name stands on its page. Median of the repeats, smallest and
largest beside it; printed and written as they come.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from headscope.heads import ColumnInfo, Condition, HeadMap, MapMeta, Rule, ShownPrompt
from headscope.heads.evidence import Shown
from headscope.heads.storage import write_table
from headscope.probes import Geometry, write_json

SHAPES = {"30x9": (30, 9, 3), "80x64": (80, 64, 8), "126x128": (126, 128, 8)}
ROLES = ("active_dormant", "induction", "echo", "previous_token", "retrieval", "sink", "hidden_sink")
SCORES = (*ROLES, *(f"score_{i}" for i in range(21)))


def synthetic(folder: Path, layers: int, heads: int, kv_heads: int) -> None:
    """A run with as many scores, roles and prompts as a standard scan has."""
    rng = np.random.default_rng(0)
    layer, head = (axis.reshape(-1) for axis in np.indices((layers, heads)))
    frame = pd.DataFrame({"layer": layer, "head": head, "kv_head": head // (heads // kv_heads)})
    for name in SCORES:
        frame[name] = rng.beta(0.5, 3, len(frame))
        frame[f"{name}_se"] = rng.random(len(frame)) / 20
    rules = tuple(Rule(role=r, score=r, all_of=(Condition(column=r, op=">=", threshold=0.5),)) for r in ROLES)
    for rule in rules:
        frame[rule.column] = rule.apply(frame)
    geometry = Geometry(
        layers=layers, heads=heads, kv_heads=kv_heads, head_dim=64, value_dim=64, hidden=64 * heads,
        vocabulary=50_000, context=8192, windows=(None,) * layers,
    )  # fmt: skip
    columns = {n: ColumnInfo(about=f"synthetic {n}", tasks=("needle",), prompts=8) for n in SCORES}
    HeadMap(frame, MapMeta(model=folder.name, geometry=geometry, rules=rules, columns=columns)).save(
        folder / "headmap.parquet"
    )
    prompts = tuple(
        ShownPrompt(index=i, task=kind, kind=kind, tokens=tuple(f" t{n}" for n in range(1024)),
                    rows=tuple(range(512, 1024, 64)))
        for i, kind in enumerate(("needle", "passkey", "prose", "code", "random"))
    )  # fmt: skip
    grid = pd.MultiIndex.from_product(
        [range(len(prompts)), range(layers), range(heads), prompts[0].rows, range(8)],
        names=["prompt", "layer", "head", "row", "rank"],
    ).to_frame(index=False)
    grid = grid.astype({"prompt": np.int16, "layer": np.int16, "head": np.int16, "rank": np.int8})
    grid["key"] = rng.integers(0, 512, len(grid), np.int32)
    grid["mass"] = (0.5 ** (grid["rank"] + 1)).astype(np.float32)
    write_table(folder / "evidence" / "rows.parquet", grid, Shown(prompts=()))
    write_json(folder / "evidence" / "prompts.json", Shown(prompts=prompts))


@contextmanager
def server(runs: Path) -> Iterator[str]:
    """The dashboard on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "headscope.app", "app", str(runs), "--port", str(port), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.25)
            yield f"http://localhost:{port}"
        finally:
            process.terminate()


def done(page: Page, drawn: str) -> None:
    page.wait_for_selector(drawn, timeout=120_000)
    page.wait_for_selector(".stApp[data-test-script-state=notRunning]", timeout=120_000)


def visit(
    browser: Browser, url: str, drawn: str, click: Callable[[Page], None] | None = None
) -> tuple[float, float]:
    """Seconds until `drawn` stands there and the script has ended; and from a click to a head's name."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(url)
    done(page, drawn)
    opened = time.perf_counter() - began
    reached = float("nan")
    if click:
        page.wait_for_timeout(1500)  # as a reader would: what is drawn late is drawn
        began = time.perf_counter()
        click(page)
        page.wait_for_function(
            "/^L\\d+H\\d+$/.test(document.querySelector('h1')?.textContent)", timeout=60_000
        )
        reached = time.perf_counter() - began
    context.close()
    return opened, reached


def on_map(page: Page) -> None:
    page.locator('.labelmap [data-layer="20"][data-head="5"]').click()


def summary(values: list[float]) -> dict[str, float]:
    low, high = min(values), max(values)
    return {"median": round(statistics.median(values), 2), "low": round(low, 2), "high": round(high, 2)}


def measure(
    browser: Browser, address: str, shapes: Sequence[str], repeats: int
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """The times of one shape, again after every kind of visit."""
    cells, lines = ".labelmap", ".hs-lines"
    visit(browser, f"{address}/atlas?run={shapes[0]}", cells)  # warms the server up
    for shape in shapes:
        url, found = f"{address}/atlas?run={shape}", dict[str, list[float]]()
        head = f"{address}/head?run={shape}&layer=20&head=5"
        for name, at, drawn, click in (
            ("roles", url, cells, on_map), ("score", f"{url}&show=retrieval", cells, on_map),
            ("head", head, lines, None),
        ):  # fmt: skip
            seconds = [visit(browser, at, drawn, click) for _ in range(repeats)]
            found[f"open {name}"] = [opened for opened, _ in seconds]
            found |= {f"click {name}": [reached for _, reached in seconds]} if click else {}
            yield shape, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, help="written after every kind of visit")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "seconds": {}, "repeats": options.repeats, "cpus": len(psutil.Process().cpu_affinity()),
        "load": round(os.getloadavg()[0], 1), "python": platform.python_version(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        for shape in options.shapes:
            synthetic(Path(name) / shape, *SHAPES[shape])
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        with server(Path(name)) as address:
            for shape, found in measure(browser, address, options.shapes, options.repeats):
                seconds = {name: summary(values) for name, values in found.items()}
                for name in [n for n in seconds if n not in result["seconds"].get(shape, {})]:
                    print(shape, name, seconds[name], flush=True)
                result["seconds"][shape] = seconds
                if options.out:
                    options.out.write_text(json.dumps(result, indent=2) + "\n")
        browser.close()


if __name__ == "__main__":
    main()
