"""`headscope generate`: what a model writes, without and with interventions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headscope.app.options import Device, Json, ModelName
from headscope.app.terminal import guarded, out, quiet, say_json


@guarded
def generate(
    model: ModelName,
    prompt: Annotated[str, typer.Argument(help="A question, or the beginning of a text.")],
    spec: Annotated[
        list[Path] | None, typer.Option("--with", help="A spec of headscope intervene; repeat.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where to stop at the latest.")] = 64,
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture to show to a vision-language model; repeat.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat/--plain", help="As a user's turn, or as the beginning of a text.")
    ] = True,
    sample: Annotated[
        int | None, typer.Option(min=0, help="Sample with this seed, in place of the likeliest token.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Let a model write, without and with interventions.

    Examples:

      headscope generate smollm2 "What is the capital of France?"

      headscope generate smollm2 "Name three rivers." --with zero.json --max-new-tokens 40

      headscope generate shapes "describe :" --image scene.png
    """
    quiet()
    from headscope import probes
    from headscope.app import machine

    pictures = [probes.Picture.open(path) for path in image or ()]
    specs = [probes.Spec.open(path) for path in spec or ()]
    loaded = probes.load(model, device=device)
    for one in specs:
        one.check(loaded)

    def write(*applied: probes.Spec) -> str:
        return probes.generate(
            loaded, prompt, *applied, max_new_tokens=max_new_tokens, chat=chat, seed=sample, pictures=pictures
        )

    found = {"untouched": write()} | ({"with": write(*specs)} if specs else {})
    if as_json:
        asked = {"prompt": prompt, "specs": [str(p) for p in spec or ()]}
        asked |= {"images": [str(path) for path in image]} if image else {}
        say_json(machine.as_json(asked | found))
        return
    for name, text in found.items():
        if specs:
            methods = ", ".join(f"{s.method} on {len(s.heads)} heads" for s in specs)
            out().print(name if name == "untouched" else f"with {methods}", style="bold", markup=False)
        out().print(text, markup=False)
