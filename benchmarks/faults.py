"""What a scan survives, tried out on a planted model: trials and outcomes.

    python benchmarks/faults.py --kills 50 --out benchmarks/results/faults.json

A killed scan is a process that gets SIGKILL at a random moment of its work and is then run again; it
survives if its tables are byte for byte those of an undisturbed scan.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from headscope.heads import Preset, RunFolder, scan
from headscope.heads.presets import Portion
from headscope.probes import HeadscopeError, Model, Prompt, load, observe, plant, planted_haystack

SMALL = Preset(
    name="faults", about="a scan of a second", context=256, sample=24,
    portions=tuple(Portion(task=t, fractions=(1.0,), per_length=2) for t in ("needle", "repeat", "prose")),
)  # fmt: skip


def once(model: Model, folder: Path) -> None:
    scan(model, SMALL, folder, haystack=planted_haystack())


def forked(work: Callable[[], None]) -> int:
    """A child process that does `work`; its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def same(a: Path, b: Path) -> bool:
    names = ("headmap.parquet", "layers.parquet")
    return all((a / n).exists() and (a / n).read_bytes() == (b / n).read_bytes() for n in names)


def killed(model: Model, whole: Path, folder: Path, moment: Callable[[], float]) -> str:
    """Kill a scan at some moment of its life, and scan again; one that was over by then does not count."""
    while True:
        child = forked(lambda: once(model, folder))
        time.sleep(moment())
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == -signal.SIGKILL:
            break
        if code:
            return f"ended by itself with exit code {code}"
        shutil.rmtree(folder)
    parts = len(list(RunFolder(folder).parts.glob("*.safetensors"))) if folder.exists() else 0
    when = "while observing" if parts else "before the first part"
    if parts == 6:
        when = "after the last part"
    once(model, folder)
    return f"killed {when}: {'identical' if same(folder, whole) else 'DIFFERENT'}"


def together(model: Model, whole: Path, folder: Path) -> str:
    children = [forked(lambda: once(model, folder)) for _ in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return f"exit codes {sorted(codes)}: {'identical' if same(folder, whole) else 'DIFFERENT'}"


def damaged(model: Model, whole: Path, folder: Path, how: str, rng: Random) -> str:
    once(model, folder)
    part = rng.choice(sorted(RunFolder(folder).parts.glob("*.safetensors")))
    content = bytearray(part.read_bytes())
    at = rng.randrange(len(content))
    if how == "cut off":
        content = content[:at]
    else:
        content[at] ^= 1 << rng.randrange(8)
    part.write_bytes(content)
    (folder / "headmap.parquet").unlink()
    once(model, folder)
    return "observed again: identical" if same(folder, whole) else "DIFFERENT"


def said(work: Callable[[], object]) -> str:
    """`finished`, or the sentence with which it was refused."""
    try:
        work()
    except HeadscopeError as error:
        return f"refused: {error}"
    return "finished"


def changed(model: Model, folder: Path) -> str:
    once(model, folder)
    weight = model.output_projection(1).weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] += 1
    try:
        return said(lambda: once(Model(model.hf, model.tokenizer, model.name), folder)).replace(
            str(folder), "RUN"
        )
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def poisoned() -> str:
    model = plant("planted-llama").hf
    with torch.no_grad():
        model.get_parameter("model.layers.1.self_attn.q_proj.weight")[3 * 128 + 5, 0] = torch.nan
    return said(lambda: load(model))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--others", type=int, default=10, help="trials of each other random fault")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # a forked child has only the thread that forked
    rng, model = Random(args.seed), plant("planted-llama")
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as base:
        root = Path(base)
        once(model, root / "warm")
        began = time.perf_counter()
        once(model, root / "whole")
        span, whole = time.perf_counter() - began, root / "whole"

        def tally(fault: str, count: int, trial: Callable[[Path], str]) -> None:
            outcomes = [trial(root / f"{fault}-{i}".replace(" ", "-")) for i in range(count)]
            found[fault] = Counter(outcomes)
            print(fault, dict(found[fault]), flush=True)

        tally("kill -9", args.kills, lambda f: killed(model, whole, f, lambda: rng.uniform(0, span)))
        tally("two processes on one folder", args.others, lambda f: together(model, whole, f))
        for how in ("cut off", "one bit changed"):
            tally(f"a part {how}", args.others, lambda f, how=how: damaged(model, whole, f, how, rng))
        tally("the model changed", 1, lambda f: changed(model, f))
        tally("a NaN weight in layer 1, head 3", 1, lambda f: poisoned())
        tally("a prompt of one token", 1, lambda f: said(lambda: observe(model, Prompt("prose", (5,)))))
        odd = "".join(map(chr, range(32))) + "\x7f\u202e\ufeff\ud800"
        text = planted_haystack().replace(". ", f". {odd} ")
        tally(
            "control characters in the haystack",
            1,
            lambda f: said(lambda: scan(model, SMALL, f, haystack=text)),
        )
    content: dict[str, Any] = {
        "command": f"python benchmarks/faults.py {shlex.join(sys.argv[1:])}",
        "model": "planted-llama", "parts": 6, "seed": args.seed, "seconds_of_a_scan": round(span, 2),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "faults": {
            fault: {"trials": sum(c.values()), "outcomes": dict(sorted(c.items()))}
            for fault, c in found.items()
        },
    }  # fmt: skip
    args.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
