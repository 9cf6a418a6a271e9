"""`headscope verify`: a policy's certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headscope.app.options import Device, Dtype, Haystack, Json
from headscope.app.terminal import check_target, err, guarded, out, quiet, read_haystack, say_json


@guarded
def verify(
    policy: Annotated[Path, typer.Argument(help="A policy file.")],
    model: Annotated[
        str | None, typer.Argument(help="The model it is for.", show_default="as the policy calls it")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="A task with answers; repeat.", show_default="needle passkey keyvalue"),
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="Prompt length; repeat.", show_default="1024 2048 4096")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts for each task and length.")] = 10,
    texts: Annotated[int, typer.Option(min=0, help="Windows of plain text for each length.")] = 4,
    cost: Annotated[
        list[int] | None,
        typer.Option(help="Length at which memory and time are measured; repeat.", show_default="4096"),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="Where to write it.", show_default="the policy file itself")
    ] = None,
    haystack: Haystack = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and text.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure a policy against full attention, and write the certificate into its file.

    Examples:

      headscope verify policy.json smollm2

      headscope verify policy.json smollm2 --task needle --length 4096 --prompts 40
    """
    text = read_haystack(haystack) if haystack else None
    check_target(target)
    quiet()
    from headscope import heads, probes
    from headscope.app.progress import counting
    from headscope.app.tables_policy import print_policy

    found, standard = heads.Policy.open(policy), heads.Check()
    check = heads.Check(
        tasks=tuple(task or standard.tasks), lengths=tuple(sorted(set(length or standard.lengths))),
        per_length=prompts, texts=texts, costs=tuple(cost or standard.costs), seed=seed,
    )  # fmt: skip
    for name in check.tasks:
        probes.TASKS[name]  # what is misspelt is found out before the model loads
    loaded = probes.load(model or found.model, device=device, dtype=dtype)
    with counting(err(), "steps") as progress:
        made = heads.verify(loaded, found, check, haystack=text, progress=progress)
    made.save(target or policy)
    if as_json:
        say_json(made.model_dump_json())
        return
    print_policy(out(), made)
    out().print(f"\nPolicy    {target or policy}", markup=False)
