"""`headscope sae train` and `headscope sae show`: sparse autoencoders of a model's activations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headscope.app.cli_scan import slug
from headscope.app.options import Device, Json, ModelName
from headscope.app.terminal import err, guarded, out, quiet, say_json

if TYPE_CHECKING:
    from headscope.probes import Model, Sae, Site

sae = typer.Typer(help="Sparse autoencoders: train them, look at their features.", no_args_is_help=True)


@sae.command()
@guarded
def train(
    model: ModelName,
    layer: Annotated[list[int], typer.Option(help="Layer, 0-based; repeat it for one SAE each.")],
    site: Annotated[
        str, typer.Option(help="z (head outputs), attn, mlp (what either puts out), resid (the residual).")
    ] = "z",
    head: Annotated[int | None, typer.Option(help="One head of a z site.", show_default="all heads")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="haystack, library, samples, or a UTF-8 file; repeatable.", show_default="haystack"
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Tokens the model writes, for --text samples.")] = 0,
    architecture: Annotated[
        str,
        typer.Option(help="batchtopk, topk, matryoshka, jumprelu, standard, gated, or another of SAELens'."),
    ] = "batchtopk",
    features: Annotated[
        int | None, typer.Option(min=2, help="Width of the dictionary.", show_default="4 x the site's width")
    ] = None,
    k: Annotated[float, typer.Option(help="Active features per token, where it is set.")] = 32,
    option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=NUMBER for the architecture, as SAELens calls it; repeatable."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Activations to learn from.")] = 1_000_000,
    batch: Annotated[int, typer.Option(min=2, help="Activations of a step.")] = 1024,
    learning_rate: Annotated[float, typer.Option("--lr", help="Peak learning rate of Adam.")] = 1e-3,
    context: Annotated[int, typer.Option(min=8, help="Tokens of a window of text.")] = 256,
    buffer: Annotated[int, typer.Option(min=2, help="Activations kept in memory to shuffle.")] = 65_536,
    windows: Annotated[int, typer.Option(min=2, help="Held-out windows to measure on.")] = 64,
    examples: Annotated[int, typer.Option(min=1, help="Windows to find examples in.")] = 256,
    half: Annotated[bool, typer.Option("--half", help="Save weights in float16.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder, one more inside for each SAE.", show_default="saes/<model>"),
    ] = None,
    device: Device = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16, of the model.", show_default="by device")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of text, weights and shuffles.")] = 0,
    as_json: Json = False,
) -> None:
    """Train sparse autoencoders with SAELens, one per layer, on activations of the model.

    Position 0 and tokens with massive activations are left out. Transcoders cannot be trained: SAELens
    only runs them.

    Examples:

      headscope sae train smollm2 --site z --layer 18 --tokens 200000

      headscope sae train smollm2 --layer 17 --layer 18 --text library --text samples --samples 2000000

      headscope sae train smollm2 --site resid --layer 15 --text notes.txt --architecture topk --k 16

    A training that was stopped goes on where it was when the same command runs again.
    """
    quiet()
    from headscope import probes
    from headscope.app.progress import Words, reporting

    settings = probes.SaeSettings(
        architecture=architecture, features=features, k=k, options=_options(option or []), tokens=tokens,
        batch=batch, learning_rate=learning_rate, buffer=buffer, seed=seed,
    )  # fmt: skip
    settings.check()
    sites = _sites(site, layer, head)
    where = folder or Path("saes") / slug(model)
    loaded = probes.load(model, device=device, dtype=dtype)
    _announce(loaded, sites, settings, where)
    corpus = probes.build_corpus(
        loaded, text or ["haystack"], context=context, samples=samples, seed=seed, done=_reading()
    )
    try:
        with reporting(err(), Words("SAE", "steps", "measuring", lambda step: "")) as progress:
            found = probes.train_saes(
                loaded, sites, settings, corpus, where, dtype="float16" if half else "float32",
                thoroughness=probes.Thoroughness(windows, max(2, windows // 4), examples), progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        err().print(f"Stopped; the same command goes on from what {where} holds.", markup=False)
        raise typer.Exit(130) from None
    _finish(found, as_json)


def _options(pairs: list[str]) -> dict[str, float]:
    """`NAME=NUMBER` pairs."""
    from headscope.probes import HeadscopeError

    found: dict[str, float] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise HeadscopeError(f"--option is {pair!r}; write NAME=NUMBER.") from None
    return found


def _sites(kind: str, layers: list[int], head: int | None) -> list[Site]:
    from headscope import probes

    if kind not in probes.SITE_KINDS:
        raise probes.unknown("site", kind, probes.SITE_KINDS)
    return [probes.Site(kind=kind, layer=n, head=head) for n in layers]


def _announce(model: Model, sites: list[Site], settings: Any, folder: Path) -> None:
    for site in sites:
        site.check(model)
    err().print(
        f"{model.name}: {settings.architecture} SAEs at {', '.join(map(str, sites))}, "
        f"{settings.steps:,} steps of {settings.batch:,} activations, on {model.device}.\nFolder: {folder}",
        markup=False,
    )


def _reading() -> Any:
    """A callback that says every few seconds how far the reading is."""
    import time

    last = time.monotonic()

    def say(name: str, tokens: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 5:
            last = time.monotonic()
            err().print(f"Text: {tokens:,} tokens of {name}.", markup=False)

    return say


def _finish(saes: list[Sae], as_json: bool, first: Path | None = None) -> None:
    from headscope.app import machine, sae_tables

    if as_json:
        say_json(machine.as_json({"saes": [sae_tables.record(x) for x in saes]}))
        return
    out().print(sae_tables.summary(saes))
    out().print(sae_tables.SUMMARY_SAYS, markup=False)
    out().print(f"More      headscope sae show {first or saes[0].folder}", markup=False)


def _inside(folder: Path) -> list[Path]:
    """The SAEs of a folder of SAEs, or of a model that headscope has some of."""
    from headscope.probes import shipped_saes

    if folder.exists():
        return [] if (folder / "cfg.json").is_file() else sorted(p.parent for p in folder.glob("*/cfg.json"))
    return [path for name, path in shipped_saes().items() if name.startswith(f"{folder}/")]


@sae.command()
@guarded
def show(
    folder: Annotated[
        Path,
        typer.Argument(
            help="An SAE's folder, a folder of such folders, or one that comes with headscope: smollm2/L18.z."
        ),
    ],
    feature: Annotated[
        int | None, typer.Option(min=0, help="One feature; the most telling without it.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many features, or tokens of one.")] = 10,
    model: Annotated[
        str | None, typer.Option(help="The model it belongs to.", show_default="what the SAE says")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Show a sparse autoencoder: how good it is and what its features stand for.

    Examples:

      headscope sae show smollm2/L18.z

      headscope sae show smollm2/L18.z --feature 7

      headscope sae show saes/smollm2
    """
    quiet()
    from headscope import probes
    from headscope.app import machine, sae_tables

    inside = _inside(folder)
    if inside:
        found = [probes.load_sae(path) for path in inside]
        _finish(found, as_json, folder / inside[0].name)
        return
    bare = probes.load_sae(folder)
    name = model or (bare.card.model if bare.card else None)
    if name is None:
        raise probes.HeadscopeError(f"{str(folder)!r} does not say which model it belongs to; give --model.")
    loaded = probes.load(name, device=device)
    whole = probes.load_sae(folder, loaded)
    if feature is None:
        listed = sae_tables.listing(loaded, whole, top)
        if as_json:
            say_json(machine.as_json(sae_tables.record(whole) | {"features": listed}))
        else:
            out().print(sae_tables.summary([whole]))
            out().print(sae_tables.SUMMARY_SAYS, markup=False)
            out().print(sae_tables.feature_table(listed))
            for one in listed[:1]:
                out().print(f"More      headscope sae show {folder} --feature {one['feature']}", markup=False)
        return
    described = sae_tables.described(loaded, whole, feature, top)
    if as_json:
        say_json(machine.as_json(described))
    else:
        sae_tables.print_feature(out(), described)
