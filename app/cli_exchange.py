"""`headscope export` and `import`: head maps and policies for other programs, and theirs for us."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from headscope.app.options import Json
from headscope.app.terminal import guarded, out, say_json

_GROUPED = ("duo-attention", "omniserve")  # formats whose columns are KV heads
_Count = Annotated[int | None, typer.Option(min=1, help="Where the file does not say.", show_default=False)]


@guarded
def export_command(
    source: Annotated[Path, typer.Argument(help="A run folder, a .parquet head map, or a .json policy.")],
    to: Annotated[str, typer.Option("--to", help="The format; see headscope list.")],
    target: Annotated[Path, typer.Option("--out", help="The file or folder to write.")],
    score: Annotated[
        str | None,
        typer.Option(
            help="The score of a map, higher where a head needs full attention.",
            show_default="gate, or cut errors",
        ),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Of a map: the policy that keeps this share of KV groups whole.", show_default=False
        ),
    ] = None,
    layers: Annotated[
        Literal["all", "most", "any"],
        typer.Option(help="Formats without heads: a layer streams if so many of its KV groups do."),
    ] = "all",
    as_json: Json = False,
) -> None:
    """Write a head map or policy for another program, and say what its format cannot hold.

    Examples:

      headscope export runs/smollm2 --to duo-attention --out patterns/smollm2

      headscope export policy.json --to kvpress --out kvpress.json

      headscope export runs/smollm2 --to tensorrt-llm --ratio 0.5 --layers most --out trtllm.yaml
    """
    from headscope.app import machine
    from headscope.heads import Options, Policy, export, open_source
    from headscope.probes import HeadscopeError

    what = open_source(source)
    if ratio is not None:
        if isinstance(what, Policy):
            raise HeadscopeError(f"--ratio makes a policy of a head map, and {str(source)!r} is a policy.")
        what, score = what.policy(ratio=ratio, by=score or "error"), None
    made = export(what, to, target, Options(score=score, layers=layers))
    if as_json:
        lost = [{"what": loss.what, "error": loss.error, "layer": loss.layer} for loss in made.losses]
        say_json(machine.as_json({"out": str(target), "format": to, "lost": lost, "usage": made.usage}))
        return
    console = out()
    console.print(f"Wrote {target} ({to}).", markup=False)
    for loss in made.losses:
        console.print(f"Lost: {loss}", markup=False)
    # Code and commands are for copying: no wrapping may break their lines.
    console.print(f"\n{made.usage}", markup=False, soft_wrap=True)


@guarded
def import_command(
    source: Annotated[Path, typer.Argument(help="The file or folder to read.")],
    from_: Annotated[str, typer.Option("--from", help="Its format; see headscope list.")],
    target: Annotated[Path, typer.Option("--out", help="The .parquet head map to write.")],
    model: Annotated[str, typer.Option(help="What to call the model.", show_default="as the file does")] = "",
    like: Annotated[
        Path | None, typer.Option(help="A run folder or head map of the same model, for its shape.")
    ] = None,
    layers: _Count = None,
    heads: _Count = None,
    kv_heads: _Count = None,
    as_json: Json = False,
) -> None:
    """Read what another program knows about heads as a head map, to show, compare and report.

    Examples:

      headscope import patterns/mistral --from duo-attention --heads 32 --out duo.parquet

      headscope import head_score/llama.json --from retrieval-heads --out retrieval.parquet

      headscope import qr_heads.yaml --from qrhead --like runs/llama --out qr.parquet
    """
    from headscope.app import machine
    from headscope.heads import HeadMap, Known, import_map

    same = HeadMap.open(like).meta if like else None
    known = Known(
        model=model or (same.model if same else ""), layers=layers, heads=heads, kv_heads=kv_heads,
        like=same.geometry if same else None,
    )  # fmt: skip
    headmap = import_map(source, from_, known)
    headmap.save(target)
    if as_json:
        scores = list(headmap.meta.columns)
        say_json(machine.as_json(machine.described(headmap) | {"out": str(target), "scores": scores}))
        return
    g = headmap.meta.geometry
    shared = f" that share {g.kv_heads} KV heads" if g.kv_heads < g.heads else ""
    console = out()
    console.print(
        f"Wrote {target}: {', '.join(headmap.meta.columns)} of {g.layers} layers of {g.heads} heads{shared}.",
        markup=False,
    )
    if headmap.meta.preset in _GROUPED and g.kv_heads == g.heads and not (heads or like):
        console.print(
            f"The file has one column per KV head and does not say how many query heads share one; "
            f"if the model has more than {g.heads} heads, give --heads or --like.",
            markup=False,
        )
