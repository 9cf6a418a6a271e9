"""How fast the dashboard opens runs, and how fast a click reaches a head, in a real browser.

    python benchmarks/dashboard_opening.py --out benchmarks/results/dashboard_opening.json

Synthetic runs of 30 x 9, 80 x 64 and 126 x 128 heads, with evidence, are written to a temporary
folder and opened in Chromium from a server started for the purpose; one visit warms it up. Opening
is the time from the request to the last chart drawn, in a fresh browser context with an empty
cache; a click counts until the head's name stands on its page. Median of the repeats, smallest and
largest beside it.
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
from collections.abc import Callable, Iterator
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


def opening(browser: Browser, url: str, drawn: str) -> float:
    """Seconds until `drawn` stands on the page and the script has ended."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(url)
    done(page, drawn)
    spent = time.perf_counter() - began
    context.close()
    return spent


def click(browser: Browser, url: str, cell: Callable[[Page], None], drawn: str) -> float:
    """Seconds from a click on the map until the head's name stands there."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(url)
    done(page, drawn)
    page.wait_for_timeout(1500)
    began = time.perf_counter()
    cell(page)
    page.wait_for_function("/^L\\d+H\\d+$/.test(document.querySelector('h1')?.textContent)", timeout=60_000)
    spent = time.perf_counter() - began
    context.close()
    return spent


def on_score(page: Page) -> None:
    box = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def on_roles(page: Page) -> None:
    page.locator('.labelmap [data-layer="20"][data-head="5"]').click()


def summary(values: list[float]) -> dict[str, float]:
    low, high = min(values), max(values)
    return {"median": round(statistics.median(values), 2), "low": round(low, 2), "high": round(high, 2)}


def measure(browser: Browser, address: str, repeats: int) -> dict[str, Any]:
    """All times by shape."""
    roles, score = ".labelmap", ".js-plotly-plot .main-svg"
    opening(browser, f"{address}/atlas?run=30x9", roles)  # warms the server up
    found: dict[str, Any] = {}
    for shape in SHAPES:
        url = f"{address}/atlas?run={shape}"
        head = f"{address}/head?run={shape}&layer=20&head=5"
        found[shape] = {
            "open roles": [opening(browser, url, roles) for _ in range(repeats)],
            "open score": [opening(browser, f"{url}&show=retrieval", score) for _ in range(repeats)],
            "open head": [opening(browser, head, score) for _ in range(repeats)],
            "click roles": [click(browser, url, on_roles, roles) for _ in range(repeats)],
            "click score": [click(browser, f"{url}&show=retrieval", on_score, score) for _ in range(repeats)],
        }
        found[shape] = {name: summary(values) for name, values in found[shape].items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        for shape, (layers, heads, kv_heads) in SHAPES.items():
            synthetic(Path(name) / shape, layers, heads, kv_heads)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        with server(Path(name)) as address:
            seconds = measure(browser, address, options.repeats)
        browser.close()
    result = {
        "seconds": seconds, "repeats": options.repeats, "cpus": len(psutil.Process().cpu_affinity()),
        "load": round(os.getloadavg()[0], 1), "python": platform.python_version(),
    }  # fmt: skip
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
