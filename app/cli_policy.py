"""`headscope policy`: choose, show and compare serving policies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headscope.app.options import Json
from headscope.app.terminal import guarded, out, say_json
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.heads import Policy

policy = typer.Typer(
    name="policy",
    help="Choose which KV groups keep everything in a serving cache, show and compare such policies.",
    no_args_is_help=True,
)
_Ratio = Annotated[float | None, typer.Option(help="Share of KV groups that keep everything, 0 ... 1.")]
_Budget = Annotated[float | None, typer.Option(help="Share of the KV bytes that may stay, 0 ... 1.")]
_Error = Annotated[float | None, typer.Option(help="Highest score of a KV group that streams.")]
_By = "loss, error, gate, retrieval, razor, random, or a score of the map."


@policy.command()
@guarded
def choose(
    run: Annotated[Path, typer.Argument(help="A run folder, or a .parquet head map.")],
    target: Annotated[Path, typer.Option("--out", help="The policy file to write.")],
    ratio: _Ratio = None,
    kv_budget: _Budget = None,
    max_error: _Error = None,
    by: Annotated[
        str | None, typer.Option(help=_By, show_default="loss where it was measured, else error")
    ] = None,
    sink: Annotated[
        int | None, typer.Option(help="First keys that streaming groups keep.", show_default="64")
    ] = None,
    recent: Annotated[int | None, typer.Option(help="Recent keys they keep.", show_default="256")] = None,
    context: Annotated[
        int | None, typer.Option(help="Length at which bytes count.", show_default="the scan's longest")
    ] = None,
    compute: Annotated[str, typer.Option(help="group or head: who may skip old keys.")] = "group",
    seed: Annotated[int, typer.Option(min=0, help="Seed of random.")] = 0,
    as_json: Json = False,
) -> None:
    """Choose the KV groups that keep everything; the others keep sink + recent.

    Give one of --ratio, --kv-budget and --max-error.

    Examples:

      headscope policy choose runs/smollm2 --kv-budget 0.5 --out policy.json

      headscope policy choose runs/smollm2 --ratio 0.25 --by retrieval --out retrieval.json
    """
    from headscope.app.tables_policy import print_policy
    from headscope.heads import HeadMap

    made = HeadMap.open(run).policy(
        ratio=ratio, kv_budget=kv_budget, max_error=max_error, by=by, sink=sink, recent=recent,
        context=context, compute=compute, seed=seed,
    )  # fmt: skip
    made.save(target)
    if as_json:
        say_json(made.model_dump_json())
        return
    print_policy(out(), made)
    out().print(f"\nPolicy    {target}\nMeasure   headscope verify {target} {made.model}", markup=False)


@policy.command("show")
@guarded
def show_policy(
    source: Annotated[Path, typer.Argument(help="A policy file.")],
    as_json: Json = False,
) -> None:
    """Show what a policy keeps, and its certificate if it was measured.

    Example:

      headscope policy show policy.json
    """
    from headscope.app.tables_policy import print_policy
    from headscope.heads import Policy

    found = Policy.open(source)
    if as_json:
        say_json(found.model_dump_json())
        return
    print_policy(out(), found)


@policy.command("compare")
@guarded
def compare_policies(
    sources: Annotated[list[Path], typer.Argument(help="Policy files; or one run and several --by.")],
    by: Annotated[list[str] | None, typer.Option(help=f"With a run: {_By} Repeat it.")] = None,
    ratio: _Ratio = None,
    kv_budget: _Budget = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random.")] = 0,
    as_json: Json = False,
) -> None:
    """Show where policies disagree, group by group.

    Examples:

      headscope policy compare error.json retrieval.json gates.json

      headscope policy compare runs/smollm2 --by error --by retrieval --by razor --ratio 0.5
    """
    from headscope.app import machine
    from headscope.app.tables_policy import disagreement, print_disagreement

    limit = (
        {"ratio": 0.5} if ratio is None and kv_budget is None else {"ratio": ratio, "kv_budget": kv_budget}
    )
    found = _gathered(sources, by or [], limit, seed)
    shapes = {(p.geometry.layers, p.geometry.kv_heads) for p in found.values()}
    if len(shapes) > 1:
        sizes = " and ".join(f"{a} x {b}" for a, b in sorted(shapes))
        raise HeadscopeError(f"Only policies of one shape can be compared; these have {sizes} KV groups.")
    if as_json:
        pairs, groups = disagreement(found)
        listed = [{"layer": i, "kv_head": g, "full_by": names} for i, g, names in groups]
        say_json(machine.as_json({"pairs": pairs, "groups": listed}))
        return
    print_disagreement(out(), found)


def _gathered(sources: list[Path], by: list[str], limit: dict[str, Any], seed: int) -> dict[str, Policy]:
    """Policies by name: files under their own, rankings of a run under theirs.

    Raises:
        HeadscopeError: fewer than two.
    """
    from headscope.heads import HeadMap, Policy

    if by:
        if len(sources) != 1:
            raise HeadscopeError(f"With --by, give one run or head map, not {len(sources)}.")
        headmap = HeadMap.open(sources[0])
        found = {name: headmap.policy(by=name, seed=seed, **limit) for name in by}
    else:
        names = [p.stem for p in sources]
        found = {(p.stem if names.count(p.stem) == 1 else str(p)): Policy.open(p) for p in sources}
    if len(found) < 2:
        raise HeadscopeError("A comparison needs at least two policies: give more files, or several --by.")
    return found
