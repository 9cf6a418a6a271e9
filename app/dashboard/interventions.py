"""Interventions: a spec of the run or one made here, and what it does to an answer."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.beforeafter import BeforeAfter, before_after
from headscope.app.dashboard import address, causes, held, live, look, store
from headscope.app.dashboard.look import plain
from headscope.app.dashboard.questions import chosen_prompt
from headscope.app.tokens import visible
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap, Manifest
    from headscope.probes import Model, Spec

_HERE = "made here"


def show() -> None:
    """Draw the page."""
    left, right = st.columns((3, 1), vertical_alignment="bottom")
    with right:
        run = store.chosen_run()
    headmap = store.headmap(run)
    look.install(headmap)
    with left:
        look.heading(
            "Interventions",
            eyebrow=f"{headmap.meta.model}: change what heads do, and see what the model says then",
        )
    specs = held.specs(run)
    chosen = address.choose("Intervention", "spec", [_HERE, *specs], _HERE) if specs else _HERE
    wanted = _asked(headmap) if chosen == _HERE else None
    if chosen != _HERE:
        _described(specs[chosen])
    manifest = store.manifest(run)
    look.section("Before and after", "One prompt, greedily continued, without and with the intervention.")
    if manifest is None:
        look.note("This map was not made by a scan here, so it is not known which model to load.")
    else:
        _try(run, manifest, specs.get(chosen), wanted)
    causes.show(run, headmap)


def _asked(headmap: HeadMap) -> tuple[str, str, float]:
    """Method, heads and strength, as the controls have them."""
    from headscope.probes import INTERVENTIONS

    with st.spinner("Loading torch"):  # the first visit only
        methods = {entry.name: entry for entry in INTERVENTIONS}
    a, b, c = st.columns((1, 2, 1.2), vertical_alignment="bottom", gap="medium")
    with a:
        method = address.choose(
            "Method", "method", list(methods), "zero" if "zero" in methods else next(iter(methods))
        )
    with b:
        heads = address.words("Heads", "heads", _best(headmap), help="L18H6, L23H2, …")
    with c:
        strength = address.slide(
            "Kept of the original", "kept", -1.0, 2.0, methods[method].strength, step=0.05, form="%.2f",
            help="1 leaves the heads as they are, 0 makes the whole change, 2 the opposite one.",
        )  # fmt: skip
    look.note(f"{method}: {methods[method].summary}.")
    return method, heads, strength


def _best(headmap: HeadMap, k: int = 5) -> str:
    """The best heads of the first role that copies, or of whatever comes first."""
    role = (
        "retrieval"
        if "retrieval" in headmap.roles
        else next(iter([*headmap.roles, *headmap.meta.columns]), "")
    )
    if not role:
        return ""
    best = headmap.top(role, k)
    return ", ".join(f"L{layer}H{head}" for layer, head in zip(best["layer"], best["head"], strict=True))


def _described(spec: Spec) -> None:
    heads = ", ".join(map(str, spec.heads[:12])) + (
        f" and {len(spec.heads) - 12} more" if len(spec.heads) > 12 else ""
    )
    look.note(f"{spec.method} on {heads}; {spec.positions} rows. {spec.source.note}")


def _try(run: Run, manifest: Manifest, spec: Spec | None, wanted: tuple[str, str, float] | None) -> None:
    source, fingerprint = manifest.plan.model, manifest.plan.fingerprint
    prompt = chosen_prompt(run)
    if not st.button(f"Run {plain(source)} with and without it", key="try", type="primary"):
        look.note("Nothing is run before you ask for it; the model is loaded the first time.")
        return
    try:
        with st.spinner("Running the model"), live.alone():
            model = live.model(source, fingerprint)
            begin = str(
                getattr(model.tokenizer, "bos_token", None) or ""
            )  # the model's tokenizer adds its own
            found = before_after(model, spec or _fitted(model, wanted), prompt.removeprefix(begin))
    except HeadscopeError as error:
        look.error(str(error))
        return
    _answers(found)
    if wanted:
        look.note("Measured on fresh prompts, with the opposite change and random heads beside it:")
        st.code(_command(source, wanted), language=None, wrap_lines=True)


def _command(source: str, wanted: tuple[str, str, float]) -> str:
    """What does the same on many prompts, with controls, and writes the spec."""
    method, heads, strength = wanted
    named = [part for head in _named(heads) for part in ("--head", head)]
    words = ["headscope", "intervene", method, source, *named, "--strength", f"{strength:g}"]
    return shlex.join([*words, "--out", f"{method}.json"])


def _fitted(model: Model, wanted: tuple[str, str, float] | None) -> Spec:
    from headscope.probes import fit

    assert wanted is not None
    method, heads, strength = wanted
    return fit(model, method, heads=_named(heads) or None, strength=strength)


def _named(heads: str) -> list[str]:
    """The heads of a line such as `L18H6, L23H2`."""
    return [head for head in re.split(r"[\s,;]+", heads) if head]


def _answers(found: BeforeAfter) -> None:
    left, right = st.columns(2, gap="large")
    for column, name, text in (
        (left, "As it is", found.before),
        (right, "Under the intervention", found.after),
    ):
        with column:
            look.html(look.part("answer", heading=name, text=visible(text.strip(" "))))
    rows = [(visible(t.token), t.before, t.after) for t in found.tokens]
    look.html(look.part("next", rows=rows))
    look.note(f"The distribution of the next token moves by {found.kl:.3f} nats (KL divergence).")
