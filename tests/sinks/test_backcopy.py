"""The theory of Guo et al. 2024 on the shipped Bigram-Backcopy models, and the reading against eager."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from headscope import probes
from headscope.probes import checkpoints, load
from headscope.probes.toys.bigram_backcopy import BOS, relu_weights, world
from headscope.sinks import Backcopying, read_backcopy

RELU = Path(probes.__file__).parent / "toys" / "weights" / "bigram-backcopy-relu"


@pytest.fixture(scope="module")
def over() -> dict[int, Backcopying]:
    """Every checkpoint, on the same unseen texts."""
    here = world()
    return {c.step: read_backcopy(load(c.source), here=here) for c in checkpoints(["bigram-backcopy"])}


def of(found: Backcopying, name: str) -> float:
    return float(found.layers.loc[0, name])


def test_the_model_learns_both_halves_of_the_task(over: dict[int, Backcopying]) -> None:
    first, last = over[0], over[8000]
    assert first.backcopy_risk.value[0] > 3 and first.bigram_risk.value[0] > 1
    assert last.backcopy_risk.value[0] < 0.05
    # Above the entropy by little; below it only as far as the sampled texts allow.
    assert abs(last.bigram_risk.value[0]) < 0.03


def test_the_head_is_dormant_unless_a_trigger_wakes_it(over: dict[int, Backcopying]) -> None:
    last = over[8000]
    assert of(last, "sink_mass") > 0.9 and of(last, "sink_mass_trigger") < 0.01
    assert of(last, "copy_mass") > 0.9
    assert of(over[0], "sink_mass") == pytest.approx(of(over[0], "sink_mass_trigger"), abs=0.02)


def test_the_sinks_value_drains(over: dict[int, Backcopying]) -> None:
    drain = {step: of(found, "value_sink") / of(found, "value_others") for step, found in over.items()}
    assert 0.8 < drain[0] < 1.2
    assert drain[8000] < 0.15 and drain[8000] < drain[1600] < drain[100]


def test_the_sinks_logit_grows_like_the_logarithm_of_time(over: dict[int, Backcopying]) -> None:
    steps = [s for s in over if 50 <= s <= 3200]
    logit, time = np.array([of(over[s], "sink_logit") for s in steps]), np.log(steps)
    slope, start = np.polyfit(time, logit, 1)
    left = ((logit - slope * time - start) ** 2).sum() / ((logit - logit.mean()) ** 2).sum()
    assert slope > 3 and 1 - left > 0.97
    # Growth linear in time would be far from it.
    straight = np.corrcoef(steps, logit)[0, 1] ** 2
    assert 1 - left > straight


def test_relu_attention_has_no_sink_and_hardly_a_drain(over: dict[int, Backcopying]) -> None:
    first, last = (read_backcopy(load(RELU / f"step-{s}"), weights=relu_weights) for s in (0, 3200))
    assert last.backcopy_risk.value[0] < 0.05 and abs(last.bigram_risk.value[0]) < 0.1
    assert of(last, "sink_mass") < 0.01
    # The value of `<s>` grows with the others' instead of fading, only less: nothing copies `<s>`.
    assert of(last, "value_sink") > 10 * of(first, "value_sink")
    drain = {
        name: of(r, "value_sink") / of(r, "value_others")
        for name, r in (("relu", last), ("softmax", over[3200]))
    }
    assert drain["relu"] > 0.2 and drain["relu"] > 1.5 * drain["softmax"]


def test_masses_agree_with_eager_attention() -> None:
    model, here = load("bigram-backcopy@800"), world()
    found = read_backcopy(model, here=here, texts=4, seed=5)
    ids = here.sequences(4, torch.Generator().manual_seed(5 + 1_000_003))
    model.hf.set_attn_implementation("eager")
    with torch.no_grad():
        out = model.hf(ids, output_attentions=True, output_hidden_states=True)
    weight, trigger = out.attentions[0][:, 0], here.trigger[ids]
    sink = [w[2:, 0][~t[2:]].mean().item() for w, t in zip(weight, trigger, strict=True)]
    copy = [w.diagonal(-1)[1:][t[2:]].mean().item() for w, t in zip(weight, trigger, strict=True)]
    assert of(found, "sink_mass") == pytest.approx(np.mean(sink), abs=1e-5)
    assert of(found, "sink_mass_se") == pytest.approx(np.std(sink, ddof=1) / 2, abs=1e-5)
    assert of(found, "copy_mass") == pytest.approx(np.mean(copy), abs=1e-5)
    assert (ids[:, 0] == BOS).all()
    # W_O W_V x of the normed input, the bias of the values included and that of the output left out.
    block = model.hf.transformer.h[0]
    normed = block.ln_1(out.hidden_states[0])
    value = block.attn.c_attn(normed)[..., 128:] @ block.attn.c_proj.weight
    norm = value.norm(dim=-1)
    assert of(found, "value_sink") == pytest.approx(norm[:, 0].mean().item(), rel=1e-4)
    assert of(found, "value_others") == pytest.approx(norm[:, 1:].mean().item(), rel=1e-4)
    loss = torch.nn.functional.cross_entropy(
        out.logits[:, 2:-1].transpose(1, 2), ids[:, 3:], reduction="none"
    )
    mine = [x[t[2:-1]].mean().item() for x, t in zip(loss, trigger, strict=True)]
    assert found.backcopy_risk.value[0] == pytest.approx(np.mean(mine), rel=1e-4)
