"""Sparse autoencoders as text: how good they are, and what their features stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headscope.app.looks import with_error
from headscope.app.tables import plain_table
from headscope.app.tokens import visible

if TYPE_CHECKING:
    from headscope.probes import Model, Sae

_LIVELY = (1e-4, 0.01)  # features active more rarely have too few examples, more often too many meanings
SHORT = (5, 3)  # tokens before and after the most exciting one, where there is little room
_FEW = 2  # examples of a feature in the table


def record(sae: Sae) -> dict[str, Any]:
    """One SAE and what its card says."""
    found: dict[str, Any] = {"folder": sae.folder, "site": str(sae.site), "features": sae.features}
    return found | ({"card": sae.card.model_dump()} if sae.card else {})


def summary(saes: Sequence[Sae]) -> Table:
    """One line per SAE: what was measured on held-out text."""
    table = plain_table(
        "Sparse autoencoders, on held-out text", "site", "kind", "features", "EV", "L0", "dead", "loss",
        "spliced", "zeroed",
    )  # fmt: skip
    table.columns[1].no_wrap = True
    for sae in saes:
        start = [str(sae.site), sae.inner.cfg.architecture(), f"{sae.features:,}"]
        if sae.card is None:
            table.add_row(*start, *["–"] * 6)
            continue
        m = sae.card.metrics
        table.add_row(
            start[0], sae.card.settings.architecture, start[2], with_error(*m.explained_variance.both),
            f"{m.l0.value:.1f}", f"{m.dead:.0%}", f"{m.loss.value:.3f}", f"{m.loss_spliced.value:.3f}",
            f"{m.loss_zeroed.value:.3f}",
        )  # fmt: skip
    return table


SUMMARY_SAYS = (
    "EV: explained variance; L0: active features per token; loss in nats per token: untouched, with the "
    "reconstruction spliced in, with zeros."
)


def listing(model: Model, sae: Sae, top: int) -> list[dict[str, Any]]:
    """The features whose best examples stand out most among those that are neither rare nor constant."""
    from headscope.probes import Evidence

    assert sae.folder is not None
    seen = Evidence.open(sae.folder)
    peak = seen.activations.abs().amax((1, 2)) / seen.mean.abs().clamp_min(1e-9)
    lively = (seen.frequency > _LIVELY[0]) & (seen.frequency < _LIVELY[1])
    order = (peak * lively).argsort(descending=True)[: min(top, int(lively.sum()))]
    return [described(model, sae, int(i), 2, seen) for i in order]


def described(model: Model, sae: Sae, feature: int, top: int, seen: Any = None) -> dict[str, Any]:
    """One feature: how often it is active, its examples, its logit effect, the heads that write it."""
    from headscope.probes import Evidence, head_shares, logit_effect

    assert sae.folder is not None
    effect = logit_effect(model, sae, feature)
    seen = seen or Evidence.open(sae.folder)
    found: dict[str, Any] = {
        "site": str(sae.site), "feature": feature, "frequency": float(seen.frequency[feature]),
        "mean": float(seen.mean[feature]), "tokens_read": seen.tokens,
        "raises": _logits(model, effect, top), "lowers": _logits(model, -effect, top, -1),
        "examples": _examples(model, seen, feature),
    }  # fmt: skip
    if sae.site.kind == "z" and sae.site.head is None:
        shares = head_shares(model, sae)[feature]
        found["heads"] = [
            {"head": f"L{sae.site.layer}H{h}", "share": float(shares[h])}
            for h in (-shares).argsort().tolist()
        ]
    return found


def _logits(model: Model, effect: Any, top: int, sign: int = 1) -> list[dict[str, Any]]:
    value, ids = effect.topk(top)
    return [
        {"token": _text(model, int(i)), "effect": sign * float(v)} for v, i in zip(value, ids, strict=True)
    ]


def _text(model: Model, token: int) -> str:
    tokenizer: Any = model.tokenizer
    return visible(tokenizer.decode([token])) if tokenizer is not None else str(token)


def _examples(model: Model, seen: Any, feature: int) -> list[dict[str, Any]]:
    """Texts with the feature's activation on every token; texts on which it is never active left out."""
    found = []
    for ids, active in zip(seen.ids[feature].tolist(), seen.activations[feature].tolist(), strict=True):
        if any(active):
            kept = [(_text(model, i), a) for i, a in zip(ids, active, strict=True) if i >= 0]
            found.append({"tokens": [t for t, _ in kept], "activations": [a for _, a in kept]})
    return found


def feature_table(listed: Sequence[dict[str, Any]]) -> Table:
    """One line per feature: who writes it most, what it raises, and texts that excite it."""
    table = plain_table("Features that stand out", "feature", "active", "head", "raises", "examples")
    for one in listed:
        heads = " ".join(f"{h['head']} {h['share']:.0%}" for h in one.get("heads", [])[:1])
        examples = Text("\n").join(_strip(example, SHORT) for example in different(one["examples"]))
        table.add_row(
            str(one["feature"]), f"{one['frequency']:.2%}", heads or "–",
            Text("\n".join(t["token"] for t in one["raises"])), examples or Text("–"),
        )  # fmt: skip
    return table


def different(examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few examples that do not say the same."""
    said = {str(_strip(example, SHORT)): example for example in reversed(examples)}
    return list(said.values())[::-1][:_FEW]


def print_feature(console: Console, one: dict[str, Any]) -> None:
    """Everything about one feature."""
    console.print(
        f"Feature {one['feature']} at {one['site']}: active on {one['frequency']:.3%} of "
        f"{one['tokens_read']:,} tokens, by {one['mean']:.3g} on average.",
        markup=False,
    )
    for name in ("raises", "lowers"):
        logits = "  ".join(f"{t['token']} {t['effect']:+.3g}" for t in one[name])
        console.print(f"{name.capitalize():8} {logits}", markup=False)
    if "heads" in one:
        heads = "  ".join(f"{h['head']} {h['share']:.0%}" for h in one["heads"])
        console.print(f"Written by (share of the decoder's norm)  {heads}", markup=False)
    for example in one["examples"]:
        console.print(_strip(example))
    if not one["examples"]:
        console.print("It was active nowhere in the texts that were read.")


def _strip(example: dict[str, Any], around: tuple[int, int] | None = None) -> Text:
    """An example's tokens, those that excite the feature in bold, the most exciting one in «»."""
    active = example["activations"]
    peak = max(range(len(active)), key=lambda i: abs(active[i]))
    first, stop = (0, len(active)) if around is None else (max(0, peak - around[0]), peak + around[1] + 1)
    text = Text()
    for i in range(first, min(stop, len(active))):
        token = example["tokens"][i]
        if i == peak:
            text.append("«", "dim").append(token, "reverse").append("»", "dim")
        else:
            text.append(token, "bold" if active[i] else "dim")
    return text
