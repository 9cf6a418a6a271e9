"""Patching against brute force: one prompt and one head at a time, whole prompts, nothing shared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from zoo import random_pairs as pairs
from zoo import tiny

from headscope.probes import (
    Contrast,
    HeadId,
    HeadscopeError,
    Model,
    Prompt,
    activation_patching,
    attribution_patching,
    load,
    path_patching,
    screen,
)

CLOSE = {"rtol": 1e-3, "atol": 3e-4}
SOME = (HeadId(0, 1), HeadId(1, 4), HeadId(2, 0))
Change = Callable[[int, Tensor], Tensor]


def run(model: Model, ids: tuple[int, ...], change: Change | None = None, mlps: Any = None) -> Any:
    """Log-odds of the right answer on one text, the head outputs [H, T, D] and MLP outputs on the way."""
    kept: dict[str, list[Any]] = {"z": [], "mlp": []}
    heads = model.geometry.heads

    def outputs(layer: int) -> Callable[..., tuple[Tensor]]:
        def hook(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0][0].view(len(ids), heads, -1).transpose(0, 1)
            kept["z"].append(z)
            z = z if change is None else change(layer, z)
            return (z.transpose(0, 1).reshape(1, len(ids), -1),)

        return hook

    def mlp(layer: int) -> Callable[..., Any]:
        def hook(_: Any, __: Any, output: Any) -> Any:
            kept["mlp"].append(output)
            return output if mlps is None else mlps[layer]

        return hook

    with torch.no_grad(), ExitStack() as stack:
        for layer in range(model.geometry.layers):
            projection = model.output_projection(layer)
            stack.callback(projection.register_forward_pre_hook(outputs(layer)).remove)
            stack.callback(model.layer_modules[layer].mlp.register_forward_hook(mlp(layer)).remove)
        p = model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1)
    return float(torch.log(p[5] + p[7]) - torch.log(p[9])), kept["z"], kept["mlp"]


def texts(prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert prompt.contrast is not None
    return prompt.ids[:-1], prompt.contrast.ids


def swap(z: list[Tensor], twin: list[Tensor], head: HeadId, at: slice, hold: bool) -> Change:
    """One head's rows from the twin; all other heads held at `z` or live."""

    def change(layer: int, live: Tensor) -> Tensor:
        out = (z[layer] if hold else live).clone()
        if layer == head.layer:
            out[head.head, at] = twin[layer][head.head, at]
        return out

    return change


@pytest.mark.parametrize("positions", ["all", "last", "middle"])
def test_activation_patching_is_brute_force(any_model: Model, positions: str) -> None:
    prompts = pairs()
    found = activation_patching(any_model, prompts, heads=SOME, positions=positions).change[0]
    for p, prompt in enumerate(prompts):
        clean, twin = texts(prompt)
        at = {"all": slice(None), "last": slice(len(clean) - 1, None), "middle": slice(2, 6)}[positions]
        before, z, _ = run(any_model, clean)
        _, other, _ = run(any_model, twin)
        for head in SOME:
            after, _, _ = run(any_model, clean, swap(z, other, head, at, hold=False))
            np.testing.assert_allclose(found[p, head.layer, head.head], after - before, **CLOSE)
    assert np.isnan(found).sum() == found.size - len(SOME) * len(prompts)


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
def test_paths_to_the_logits_are_brute_force(any_model: Model, mlps: Any) -> None:
    prompts = pairs()
    found = path_patching(any_model, prompts, heads=SOME, mlps=mlps).change[0]
    for p, prompt in enumerate(prompts):
        clean, twin = texts(prompt)
        before, z, held = run(any_model, clean)
        _, other, _ = run(any_model, twin)
        for head in SOME:
            change = swap(z, other, head, slice(None), hold=True)
            after, _, _ = run(any_model, clean, change, held if mlps == "frozen" else None)
            np.testing.assert_allclose(found[p, head.layer, head.head], after - before, **CLOSE)


def test_the_direct_path_is_the_whole_effect_in_the_last_layer() -> None:
    model = load(tiny("llama"))
    last = [HeadId(2, i) for i in range(6)]
    recomputed, exact = (
        path_patching(model, pairs(), heads=last),
        activation_patching(model, pairs(), heads=last, positions="last"),
    )
    np.testing.assert_allclose(recomputed.change, exact.change, **CLOSE)


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
@pytest.mark.parametrize("reads", ["q", "k", "v"])
def test_paths_to_receivers_are_brute_force(reads: str, mlps: Any) -> None:
    """In a model without KV groups, a receiver's input can be swapped in the projection itself."""
    model = load(tiny("llama-no-groups"))
    reader, width = HeadId(2, 3), model.geometry.head_dim
    cut = slice(reader.head * width, (reader.head + 1) * width)
    projection = getattr(model.attention_modules[2], f"{reads}_proj")
    found = path_patching(model, pairs(), receivers=[f"{reader}.{reads}"], heads=SOME, mlps=mlps).change[0]
    assert np.isnan(found[:, 2]).all()
    for p, prompt in enumerate(pairs()):
        clean, twin = texts(prompt)
        before, z, held = run(model, clean)
        _, other, _ = run(model, twin)
        for head in SOME[:2]:
            heard: list[Tensor] = []
            handle = projection.register_forward_hook(lambda *a, kept=heard: kept.append(a[2]))
            run(
                model, clean, swap(z, other, head, slice(None), hold=True), held if mlps == "frozen" else None
            )
            handle.remove()

            def read(_: Any, __: Any, output: Tensor, kept: list[Tensor] = heard) -> Tensor:
                output = output.clone()
                output[..., cut] = kept[0][..., cut]
                return output

            handle = projection.register_forward_hook(read)
            after, _, _ = run(model, clean)
            handle.remove()
            np.testing.assert_allclose(found[p, head.layer, head.head], after - before, **CLOSE)


@pytest.mark.parametrize("name", ["llama", "llama-one-kv-head", "gemma2", "gpt2", "gpt-neox", "qwen3"])
def test_attribution_is_the_slope_of_patching(name: str) -> None:
    model, step = load(tiny(name)), 1e-2
    found = attribution_patching(model, pairs(), metrics=("logit_diff",)).change
    assert np.isnan(found[1:]).all()
    for p, prompt in enumerate(pairs()):
        clean, twin = texts(prompt)
        _, z, _ = run(model, clean)
        _, other, _ = run(model, twin)
        for head in SOME:
            ends = []
            for sign in (1, -1):
                near = [a + sign * step * (b - a) for a, b in zip(z, other, strict=True)]
                ends.append(run(model, clean, swap(z, near, head, slice(None), hold=False))[0])
            slope = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(found[0, p, head.layer, head.head], slope, rtol=0.02, atol=2e-3)


def test_attribution_needs_no_weights_that_learn() -> None:
    model = load(tiny("llama"))
    expected = attribution_patching(model, pairs()).change
    model.hf.requires_grad_(False)
    np.testing.assert_allclose(attribution_patching(model, pairs()).change, expected, rtol=1e-4)


def test_screening_confirms_the_largest() -> None:
    model = load(tiny("llama"))
    found = screen(model, pairs(), candidates=4)
    assert found.candidates == found.attribution.top(4)
    confirmed = np.argwhere(np.isfinite(found.exact.estimate().value))
    assert {HeadId(*map(int, at)) for at in confirmed} == set(found.candidates)


def test_effects_say_what_they_mean() -> None:
    model = load(tiny("llama"))
    prompts = pairs((8, 9, 10, 11))
    found = activation_patching(model, prompts)
    for p, prompt in enumerate(prompts):
        clean, twin = texts(prompt)
        assert found.clean[0, p] == pytest.approx(run(model, clean)[0], abs=1e-4)
        assert found.counterfactual[0, p] == pytest.approx(run(model, twin)[0], abs=1e-4)
    np.testing.assert_allclose(found.clean[0], found.clean[1] - found.clean[2], rtol=1e-6)
    estimate = found.estimate()
    np.testing.assert_allclose(estimate.value, found.change[0].mean(0))
    np.testing.assert_allclose(estimate.se, found.change[0].std(0, ddof=1) / 2)
    total = (found.counterfactual - found.clean)[0].mean()
    np.testing.assert_allclose(found.share().value, estimate.value / total)
    sizes = np.abs(estimate.value)
    assert found.top(1) == [HeadId(*map(int, np.unravel_index(sizes.argmax(), sizes.shape)))]


def test_the_model_is_left_as_it_was() -> None:
    model = load(tiny("llama"))
    before = run(model, (3, 4, 5, 6))[0]
    for patch in (activation_patching, path_patching, attribution_patching):
        patch(model, pairs())
    broken = Prompt("random", (3, 4, 5), answer=(2, 3), contrast=Contrast((3, 9), (5,), (10**6,)))
    with pytest.raises(IndexError):
        path_patching(model, [broken])
    assert run(model, (3, 4, 5, 6))[0] == before
    assert all("forward" not in vars(layer) for layer in model.layer_modules)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": []}, "There are no prompts to run; the list is empty"),
        ({"prompts": [Prompt("prose", (3, 4, 5))]}, "A 'prose' prompt has no answer"),
        (
            {"prompts": [Prompt("needle", (3, 4, 5), answer=(2, 3))]},
            "A 'needle' prompt has no counterfactual",
        ),
        ({"receivers": ["L1H2"]}, r"receiver 'L1H2' is not written like 'L10H3\.q'"),
        ({"receivers": ["L9H2.q"]}, r"3 layers of 6 heads, no L9H2\.q"),
        ({"mlps": "live"}, "mlps is 'live'; valid are 'recomputed' and 'frozen'"),
    ],
)
def test_bad_arguments_are_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadscopeError, match=message):
        path_patching(load(tiny("llama")), **{"prompts": pairs(), **arguments})


def test_an_unknown_position_suggests_the_nearest() -> None:
    with pytest.raises(HeadscopeError, match=r"no position 'middel'\. Did you mean 'middle'\?"):
        activation_patching(load(tiny("llama")), pairs(), positions="middel")
