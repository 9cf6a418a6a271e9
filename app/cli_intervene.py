"""`headscope intervene`: change a model, see what it does."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from headscope.app.options import Device, Json, ModelName
from headscope.app.terminal import check_target, err, guarded, out, quiet, say_json
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.app.beforeafter import BeforeAfter
    from headscope.probes import HeadId, Positions, Prompt

_OFTEN = 2.0  # seconds between lines about the fitting: the dashboard shows them
_EVALUATED = 7_000_003  # added to seeds, so that no prompt is one that was learned from


@guarded
def intervene(
    method: Annotated[str, typer.Argument(help="A method; headscope list names them.")],
    model: ModelName,
    head: Annotated[list[str] | None, typer.Option(help="A head such as L18H6; repeat.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run folder to take heads from.")] = None,
    role: Annotated[str, typer.Option(help="With --run: the role or score that ranks heads.")] = "retrieval",
    top: Annotated[int, typer.Option(min=1, help="With --run: how many heads.")] = 10,
    strength: Annotated[
        float | None,
        typer.Option(
            help="What is kept: 1 all, 0 nothing, 2 the opposite change.", show_default="the method's"
        ),
    ] = None,
    positions: Annotated[str, typer.Option(help="all, prompt or generated.")] = "all",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, NAME=VALUE; repeat.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="A task whose prompts have answers.",
            show_default="needle; scenes for a model that has eyes but no words for it",
        ),
    ] = None,
    length: Annotated[int, typer.Option(min=16, help="Length of its prompts in tokens.")] = 512,
    prompts: Annotated[
        int, typer.Option(min=0, help="Prompts to evaluate on; 0 fits it, and evaluates nothing.")
    ] = 10,
    learn: Annotated[
        int, typer.Option(min=2, help="Prompts to learn from, for methods that choose heads.")
    ] = 10,
    draws: Annotated[int, typer.Option(min=0, help="Random head sets to compare with.")] = 3,
    ask: Annotated[
        str | None, typer.Option(help="The beginning of a text, or a question about --image, to go on with.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture to show to a vision-language model; repeat.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="With --ask: where to stop at the latest.")] = 48,
    spec_file: Annotated[Path | None, typer.Option("--out", help="Where to write the spec.")] = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit an intervention, apply it, and show before and after, with controls.

    Heads come from --head, from a run (--run, --role, --top), or from the method itself.

    Examples:

      headscope intervene mean smollm2 --run runs/smollm2 --role retrieval --top 10

      headscope intervene scale smollm2 --head L18H6 --strength 1.5 --task keyvalue

      headscope intervene zero smollm2 --head L18H6 --head L23H2 --out zero.json --json

      headscope intervene ph3 smollm2 --task conflict --positions generated --learn 120 --prompts 60

      headscope intervene vhr shapes --ask "describe :" --image scene.png
    """
    settings = dict(_setting(text) for text in setting or ())
    check_target(spec_file)
    quiet()
    from headscope import heads, probes
    from headscope.app import machine
    from headscope.app.beforeafter import before_after
    from headscope.app.fitcost import cost_of, counted
    from headscope.app.progress import counting
    from headscope.app.tables_causal import print_asked, print_effect, print_told
    from headscope.app.wanted import Learning, Wanted

    probes.INTERVENTIONS[method], probes.TASKS[task or "needle"]
    if positions not in ("all", "prompt", "generated"):
        raise probes.unknown("kind of positions", positions, ("all", "prompt", "generated"))
    if image and not ask:
        raise HeadscopeError("--image is shown with a question: say which with --ask.")
    if prompts == 1:
        raise HeadscopeError("--prompts is 1; it has to be at least 2, or 0 to evaluate nothing.")
    chosen, avoid = _chosen(head, run, role, top)
    pictures = [probes.Picture.open(path) for path in image or ()]
    loaded = probes.load(model, device=device)
    reads = heads.knows_words(loaded)
    task = task or ("needle" if reads or loaded.vision is None else "scenes")

    def make(name: str, count: int, tokens: int = length) -> list[Prompt]:
        maker = probes.TASKS[name]
        return maker.prompts(
            loaded.reader(maker), lengths=[tokens], per_length=count, seed=seed + _EVALUATED, haystack=None
        )

    wanted = Wanted(
        method, None if chosen is None else tuple(chosen), strength, cast("Positions", positions),
        tuple(settings.items()), Learning(task, length, learn, seed), str(run or ""), role if run else "",
    )  # fmt: skip
    cost = cost_of(wanted)
    with counting(err(), "passes at most", every=_OFTEN) as progress, counted(loaded, cost, progress):
        spec = wanted.fit(loaded)
    said = None
    if ask:  # before the long part, so that a question it cannot take is said at once
        said = before_after(loaded, spec, ask, pictures=pictures, length=max_new_tokens, top=5)
    found, told, asked = None, None, make(task, prompts) if prompts else []
    if asked:
        texts = make("prose", 4, 128) if reads else []
        with counting(err(), "prompts") as progress:
            found = heads.effect(
                loaded, spec, asked, texts, draws=draws, seed=seed, avoid=avoid, progress=progress
            )
        if asked[0].contrast:  # a task of pairs, in which a wrong answer is a definite one
            told = heads.told(loaded, spec, asked, draws=draws, seed=seed, avoid=avoid)
    if spec_file:
        spec.save(spec_file)
    if as_json:
        tables: dict[str, Any] = {} if found is None else {"effect": machine.records(found)}
        tables |= {} if told is None else {"told": machine.records(told)}
        tables |= {} if said is None else {"asked": _asked(ask, image, said)}
        say_json(machine.as_json({"spec": spec.model_dump(mode="json")} | tables))
        return
    if found is not None:
        print_effect(out(), spec, found, len(asked))
    if told is not None:
        print_told(out(), told, conflict=task == "conflict")
    if ask and said is not None:
        print_asked(out(), ask, said)
    if wanted.heads is None and spec.source.note:
        out().print(f"Found   {spec.source.note}", markup=False)
    if spec_file:
        out().print(f"Spec    {spec_file}", markup=False)


def _asked(prompt: str | None, images: list[Path] | None, found: BeforeAfter) -> dict[str, Any]:
    """What --ask found, by the names that `headscope generate --json` gives it."""
    shown = {"images": [str(path) for path in images]} if images else {}
    said = {"untouched": found.before, "with": found.after, "kl": found.kl}
    return {"prompt": prompt} | shown | said | {"next": [asdict(token) for token in found.tokens]}


def _setting(text: str) -> tuple[str, Any]:
    """`beta=0.4` as a name and a JSON value, or the text itself."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise HeadscopeError(f"--set is {text!r}; it is written NAME=VALUE.")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def _chosen(
    named: list[str] | None, run: Path | None, role: str, top: int
) -> tuple[list[HeadId] | None, list[HeadId]]:
    """The heads to act on (None: the method's choice), and heads that controls leave out."""
    from headscope.heads import HeadMap
    from headscope.probes import HeadId

    if named and run:
        raise HeadscopeError("Heads come from --head or from --run, not from both.")
    if named:
        return [HeadId.parse(name) for name in named], []
    if run is None:
        return None, []
    headmap = HeadMap.open(run)
    best = headmap.top(role, top)
    labelled = headmap.frame.iloc[:0]
    if role in headmap.roles:
        labelled = headmap.frame[headmap.frame[headmap.rule(role).column].astype(bool)]

    def heads(frame: Any) -> list[HeadId]:
        return [HeadId(int(a), int(b)) for a, b in zip(frame["layer"], frame["head"], strict=True)]

    return heads(best), heads(labelled)
