"""Interventions: a spec of the run or one made here, and what it does to an answer."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.beforeafter import BeforeAfter, before_after
from headscope.app.dashboard import address, held, live, look, store
from headscope.app.dashboard.look import plain
from headscope.app.looks import story, title
from headscope.app.proof import proof_curve, proof_section
from headscope.app.tokens import visible
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap, Manifest, Proof, ShownPrompt
    from headscope.probes import Model, Spec

_HERE, _OWN = "made here", "own"
_PROMPT = (
    "The vault opens with the word maple. Clouds moved over the hills, and the market was quiet all day. "
    "Question: which word opens the vault? Answer: the vault opens with the word"
)


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
    _causes(run, headmap)


def _causes(run: Run, headmap: HeadMap) -> None:
    """What `headscope prove` has found out about the run's roles."""
    found = proof_section(headmap, run.folder)
    look.section("Roles put to the test", found.about if found else "")
    if found is None:
        look.empty(
            "No role of this run has been tested yet",
            "The test ablates a role's best heads together, and as many random heads of the same layers.",
            f"headscope prove {shlex.quote(str(run.path))}",
        )
        return
    from headscope.heads import Proof

    proof = Proof.open(run.path)
    roles = story(list(dict.fromkeys(proof.curves["role"])))
    for row in range(0, len(roles), 3):
        for column, role in zip(st.columns(3, gap="medium"), roles[row : row + 3], strict=False):
            with column:
                _curve(proof, headmap, role)
    with st.expander("All numbers, with their intervals"):
        look.html(look.part("table", headers=found.headers, rows=found.rows))


def _curve(proof: Proof, headmap: HeadMap, role: str) -> None:
    look.html(look.part("measure", title=title(role), about="answers still right; dotted: random heads"))
    st.plotly_chart(
        proof_curve(proof, role, headmap=headmap, theme=look.theme()), theme=None, key=f"proof-{role}",
        config={"displayModeBar": False},
        alt=f"Share of answers still right over the number of ablated {title(role)} heads.",
    )  # fmt: skip


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
    prompt = _prompt(run)
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


def _prompt(run: Run) -> str:
    """A question of the scan, up to its answer, or a text of the user's own."""
    shown = store.evidence(run, (0, 0))
    asked = {str(p.index): p for p in shown[0] if p.answer and p.right} if shown else {}
    chosen = address.choose(
        "Prompt", "question", [_OWN, *asked], next(iter(asked), _OWN),
        say=lambda n: _name(asked[n]) if n in asked else "a text of your own",
    )  # fmt: skip
    if chosen in asked:
        question = asked[chosen]
        start, stop = question.answer or (0, 0)
        begin, end = "".join(question.tokens[:start]), "".join(question.tokens[start:stop])
        look.note(f"… {begin[-300:]}")
        look.note(f"The right answer goes on: {visible(end)}")
        return begin
    st.session_state.setdefault("prompt", address.asked("prompt") or _PROMPT)
    prompt = st.text_area("Text", key="prompt", height=110)
    address.put(prompt=prompt if prompt != _PROMPT and len(prompt) < 1500 else None)
    return prompt


def _name(prompt: ShownPrompt) -> str:
    depth = prompt.meta.get("depth")
    where = f", {depth:.0%} deep" if isinstance(depth, int | float) else ""
    return f"{prompt.kind}, {len(prompt.tokens):,} tokens{where}, answered right"


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
