"""`headscope circuits`: which heads and edges carry a task, by several methods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headscope.app.cli_scan import slug
from headscope.app.options import Device, Dtype, Json, ModelName
from headscope.app.terminal import err, guarded, out, quiet, say_json

if TYPE_CHECKING:
    from headscope.probes import Circuit, Curve, Model, Pairs


@guarded
def circuits(
    model: ModelName,
    task: Annotated[str, typer.Option(help="A task of pairs; `headscope list` names them.")] = "ioi",
    method: Annotated[
        list[str] | None, typer.Option(help="Repeat, or separate by commas.", show_default="eap-ig")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts to find circuits on.")] = 16,
    held: Annotated[int, typer.Option(min=0, help="Other prompts to test them on; 0 tests nothing.")] = 16,
    ablation: Annotated[str, typer.Option(help="counterfactual, mean or zero.")] = "counterfactual",
    towards: Annotated[
        str, typer.Option(help="What stands in for a node while scoring, in methods with gradients.")
    ] = "counterfactual",
    edges: Annotated[
        bool, typer.Option("--edges", help="Test circuits of edges too, several times as slow.")
    ] = False,
    length: Annotated[int, typer.Option(min=16, help="Longest prompt in tokens.")] = 160,
    force: Annotated[
        bool, typer.Option("--force", help="Go on with a task that the model cannot do.")
    ] = False,
    run_folder: Annotated[
        Path | None,
        typer.Option("--out", help="A run folder, new or of a scan.", show_default="runs/<model>-circuits"),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and of random scores.")] = 0,
    as_json: Json = False,
) -> None:
    """Find a task's circuit and test on other prompts how much of the task it keeps.

    The baselines (difference of means, layer index, random) are always shown beside the methods asked
    for. Writes circuits/<task>/<method>.json, adds their scores to the run's head map, and writes its
    report again.

    Examples:

      headscope circuits smollm2 --task ioi --method attribution,eap-ig

      headscope circuits smollm2 --task docstring --method eap-ig --edges --out runs/smollm2-standard

      headscope circuits smollm2 --method attribution-ig --towards mean --ablation mean
    """
    quiet()
    from headscope import heads, probes
    from headscope.app import machine
    from headscope.app.report import write_report
    from headscope.app.tables_circuits import print_circuits

    wanted = _methods(method or ["eap-ig"])
    probes.TASKS[task]
    for word in (ablation, towards):
        probes.check_ablation(word)
    folder = run_folder or Path("runs") / f"{slug(model)}-circuits"
    loaded = probes.load(model, device=device, dtype=dtype)
    asked = probes.pairs(loaded, task, prompts + held, seed=seed, force=force, length=length)
    learn, test = asked.split(prompts)
    found = [_found(loaded, learn, name, towards, seed) for name in wanted]
    curves = [c for circuit in found for c in _curves(loaded, circuit, test, ablation, edges)] if held else []
    files = heads.keep_circuits(folder, found, curves)
    page = write_report(folder)
    kept = heads.open_circuits(folder, task)
    if as_json:
        made: dict[str, Any] = {"run": folder, "report": page, "circuits": files, "task": task,
                                "accuracy": asked.accuracy, "tried": asked.tried}  # fmt: skip
        say_json(machine.as_json(made | {"curves": [c.model_dump(mode="json") for c in kept.curves]}))
        return
    print_circuits(out(), kept)
    out().print(f"\nCircuits  {folder / 'circuits' / task}\nReport    {page}", markup=False)


def _methods(names: list[str]) -> list[str]:
    """The methods asked for, then the baselines; each once."""
    from headscope.probes import METHODS

    asked = [METHODS[part.strip()].name for name in names for part in name.split(",")]
    return list(dict.fromkeys([*asked, *(m.name for m in METHODS if m.baseline)]))


def _found(model: Model, learn: Pairs, method: str, towards: str, seed: int) -> Circuit:
    from headscope.app.progress import counting
    from headscope.probes import METHODS, discover

    settings = {"towards": towards} if "towards" in METHODS[method].settings.model_fields else None
    with counting(err(), f"steps of {method}") as progress:
        return discover(model, learn, method=method, settings=settings, seed=seed, progress=progress)


def _curves(model: Model, circuit: Circuit, test: Pairs, ablation: Any, edges: bool) -> list[Curve]:
    """Faithfulness of heads and, where asked for and scored, of edges."""
    from headscope.app.progress import counting
    from headscope.probes import faithfulness

    grains: list[Any] = ["heads"]
    if edges and any(target.endswith((".q", ".k", ".v")) for target in circuit.edges.target[:1]):
        grains.append("edges")
    made = []
    for grain in grains:
        with counting(err(), f"passes with the {grain} of {circuit.method}") as progress:
            made.append(
                faithfulness(model, circuit, test.prompts, grain=grain, ablation=ablation, progress=progress)
            )
    return made
