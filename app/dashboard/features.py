"""The part of the circuits page about features of sparse autoencoders."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from headscope.app import sae_tables
from headscope.app.dashboard import address, look, pick, saes, store
from headscope.probes import HeadId, HeadscopeError

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap, Manifest
    from headscope.probes import Circuit

_NONE, _LISTED, _LOGITS, _NODES = "none", 12, 10, 12
_WHOLE = (10_000, 10_000)


def of_circuit(circuit: Circuit) -> None:
    """The features and errors that a circuit is made of, the largest first; a click shows a feature."""
    nodes = [n for n in circuit.nodes if n.kind in ("feature", "error")]
    nodes.sort(key=lambda n: -abs(n.score))
    if not nodes:
        return
    pick.markup(look.part("nodes", nodes=nodes[:_NODES], unit=circuit.unit), f"nodes-{circuit.task}")
    look.note(
        f"The {min(_NODES, len(nodes))} largest of {len(nodes)} features and errors, the errors being what "
        "autoencoders miss. A click on a feature says what it stands for."
    )


def show(run: Run, headmap: HeadMap) -> None:
    """An autoencoder to choose, what stands out in it, and one of its features."""
    look.section(
        "Features of sparse autoencoders",
        "What directions in the heads' outputs stand for: texts that excite them, tokens they raise, heads "
        "that write them.",
    )
    found, manifest = saes.known(run, headmap), store.manifest(run)
    if not found or manifest is None:
        _none(run, headmap)
        return
    a, b = st.columns((1, 2), vertical_alignment="bottom", gap="medium")
    with a:
        name = address.choose("Autoencoder", "sae", [_NONE, *found], _NONE)
    if name == _NONE:
        look.note("Choosing one loads the model, which its features are measured with.")
        return
    try:
        with st.spinner("Loading the model and the autoencoder"):
            count = saes.features(manifest.plan.model, manifest.plan.fingerprint, found[name])
        with b:
            _steps(count)
        _feature(manifest, name, found[name])
    except HeadscopeError as error:
        look.error(str(error))
        feature = ["--feature", str(address.index("feature"))] if address.index("feature") >= 0 else []
        st.code(shlex.join(["headscope", "sae", "show", _called(found[name], name), *feature]), language=None)


def _called(folder: Path, name: str) -> str:
    """What the command line calls an SAE."""
    return str(folder) if name.startswith(f"{saes.FOLDER}/") else name


def _none(run: Run, headmap: HeadMap) -> None:
    where = shlex.quote(str(run.path / saes.FOLDER))
    look.empty(
        "No sparse autoencoder of this model",
        "A training makes one, on the outputs of a layer's heads; in the run folder it is shown here.",
        f"headscope sae train {shlex.quote(headmap.meta.model)} --layer 0 --out {where}",
    )


def _steps(count: int) -> None:
    """To other features: by the keys, or by number."""
    at = address.index("feature")
    st.session_state["go-feature"] = at if 0 <= at < count else None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        for label, step, keys in (("Previous feature", -1, "Left"), ("Next feature", 1, "Right")):
            to = (at + step) % count if at >= 0 else 0
            st.button(label, key=f"feature{step}", shortcut=keys, on_click=partial(_to, to))
        st.number_input(
            f"Feature (0 to {count - 1:,})", 0, count - 1, step=1, key="go-feature", width=180,
            placeholder="a number", on_change=_typed,
        )  # fmt: skip


def _to(feature: int | None) -> None:
    address.put(feature=feature)


def _typed() -> None:
    _to(st.session_state["go-feature"])


def _feature(manifest: Manifest, name: str, folder: Path) -> None:
    """One feature where the address names one, and those that stand out."""
    model = manifest.plan.model, manifest.plan.fingerprint
    if address.asked("feature"):
        with st.spinner("Describing the feature"):
            one = saes.described(*model, folder, address.index("feature"), _LOGITS)
        look.html(look.part("measure", title=f"{one['site']} feature {one['feature']}", about=_about(one)))
        content = look.part(
            "feature", raises=one["raises"], lowers=one["lowers"], heads=_heads(one),
            examples=[pieces(e, _WHOLE) for e in one["examples"]],
        )  # fmt: skip
        pick.markup(content, f"feature-{name}")
    with st.spinner("Looking for features that stand out"):
        listed = saes.listing(*model, folder, _LISTED)
    rows = [one | {"heads": _heads(one)[:1], "examples": _few(one)} for one in listed]
    look.note(
        "Features that stand out: among those that are neither rare nor constant, the highest peaks over "
        "their own mean. head: who writes most of it, with its share of the decoder's norm."
    )
    pick.markup(look.part("features", sae=name, features=rows), f"features-{name}")


def _about(one: Mapping[str, Any]) -> str:
    return (
        f"active on {one['frequency']:.3%} of {one['tokens_read']:,} tokens, by {one['mean']:.3g} on "
        "average; logit: what it adds straight to a token's logit, over the average token, before the final "
        "norm"
    )


def _heads(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The heads that write a feature; none where the site mixes them."""
    found = [(HeadId.parse(h["head"]), h) for h in one.get("heads", [])]
    return [{**h, "layer": head.layer, "index": head.head} for head, h in found]


def _few(one: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    return [pieces(e, sae_tables.SHORT) for e in sae_tables.different(one["examples"])]


def pieces(example: Mapping[str, Any], around: tuple[int, int]) -> list[dict[str, Any]]:
    """The tokens of an example around its most exciting one, each with its share of the peak."""
    active = example["activations"]
    peak = max(range(len(active)), key=lambda i: abs(active[i]))
    first, stop = max(0, peak - around[0]), peak + around[1] + 1
    return [
        {
            "token": example["tokens"][i], "activation": active[i], "peak": i == peak,
            "share": abs(active[i]) / (abs(active[peak]) or 1.0),
        }
        for i in range(first, min(stop, len(active)))
    ]  # fmt: skip
