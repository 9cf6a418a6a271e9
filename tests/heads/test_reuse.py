"""What circuits of different tasks share, and heads aimed at tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from zoo import random_pairs, tiny

from headscope.heads import cross_ablation, repair, shared_heads
from headscope.heads.reuse import aimed, wrong_tokens
from headscope.probes import (
    Contrast,
    HeadId,
    HeadscopeError,
    Model,
    Pairs,
    Prompt,
    all_answer_logits,
    applied,
    copying_circuit,
    copying_model,
    copying_prompts,
    discover,
    fit,
    load,
    trials,
)
from headscope.probes.effects import measure


def test_a_task_shares_its_circuit_with_its_twin() -> None:
    model, prompts = copying_model("planted-deep"), copying_prompts(4)
    one = discover(model, "copying", method="attribution", prompts=prompts)
    two = discover(model, "again", method="attribution", prompts=copying_prompts(4, seed=1))
    found = shared_heads([one, two], 4).iloc[0]
    assert found["iou"] == found["containment"] == 1
    assert found["iou_chance"] < 0.5
    with pytest.raises(HeadscopeError, match="at least two tasks"):
        shared_heads([one], 4)


def test_without_its_circuit_the_task_is_gone_and_without_others_it_stays() -> None:
    model, prompts = copying_model("planted-deep"), copying_prompts(4)
    circuit = discover(model, "copying", method="patching", prompts=prompts)
    tests = {"copying": Pairs("copying", tuple(prompts))}
    top = len(copying_circuit("planted-deep"))
    row = cross_ablation(model, [circuit], tests, top, ablation="zero").iloc[0]
    assert abs(row["left"]) < 0.05
    assert row["random"] == pytest.approx(1, abs=0.05)
    assert 0 <= row["random_sd"] < 0.05


def test_the_error_of_what_is_left_is_that_of_its_ratio() -> None:
    """What is left is a ratio of two means over the same prompts, and so is its error."""
    model, pairs = load(tiny("llama")), Pairs("random", tuple(random_pairs((9, 10, 11, 12, 13, 14))))
    circuit = discover(model, "random", method="attribution", prompts=pairs.prompts)
    row = cross_ablation(model, [circuit], {"random": pairs}, 6, ablation="zero").iloc[0]
    rest = circuit.top(18)[6:]
    alone = [faithful_to(model, prompt, rest) for prompt in pairs.prompts]
    kept, whole = np.array(alone).T
    assert row["left"] == pytest.approx(kept.sum() / whole.sum(), abs=1e-4)
    apart = kept - kept.mean() / whole.mean() * whole
    error = apart.std(ddof=1) / len(apart) ** 0.5 / abs(whole.mean())
    assert row["left_se"] == pytest.approx(error, rel=1e-3)


def faithful_to(model: Model, prompt: Prompt, heads: Sequence[HeadId]) -> tuple[float, float]:
    """Log-odds of one prompt with these heads alone live, the others zeroed, and with all."""
    dead = [HeadId(a, b) for a in range(3) for b in range(6) if HeadId(a, b) not in heads]
    found = []
    for specs in ((fit(model, "zero", heads=dead),), ()):
        with applied(model, *specs):
            logits = all_answer_logits(model, [prompt])
        found.append(float(measure(logits, [prompt])[0, 0]))
    return found[0], found[1]


def test_an_aimed_head_reads_what_it_is_aimed_at() -> None:
    """Brute force: the last layer's head output replaced by the mean of two values."""
    model, head, keys = load(tiny("llama")), HeadId(2, 4), [1, 3]
    prompt = random_pairs()[0]
    found = aimed(model, [prompt], [head], [keys])
    row, wide = prompt.answer_rows[0], model.geometry.value_dim
    values: list[torch.Tensor] = []
    layer = model.attention_modules[2]

    def swap(_: object, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        z = args[0].clone()
        group = head.head // model.geometry.group_size
        z[0, row, head.head * wide : (head.head + 1) * wide] = values[0][
            0, keys, group * wide : (group + 1) * wide
        ].mean(0)
        return (z,)

    hooks = [
        layer.v_proj.register_forward_hook(lambda *a: values.append(a[2])),  # type: ignore[operator,union-attr]
        layer.o_proj.register_forward_pre_hook(swap),  # type: ignore[operator,union-attr]
    ]
    p = all_answer_logits(model, [prompt]).double().softmax(-1)[0]
    for hook in hooks:
        hook.remove()
    assert prompt.contrast is not None
    assert found.p_right[0] == pytest.approx(float(p[list(prompt.contrast.right)].sum()), abs=1e-6)
    plain = aimed(model, [prompt], [], [keys]).p_right
    np.testing.assert_allclose(plain, trials(model, [prompt]).p_right, atol=1e-6)


def test_a_repair_says_what_it_did_and_needs_wrong_answers() -> None:
    model, prompts = copying_model("planted-deep"), copying_prompts(6)
    heads = copying_circuit("planted-deep")
    found = repair(model, prompts, heads, most=1).set_index("what")
    assert list(found.index) == [
        "untouched", "aimed at the wrong answers", "aimed at random tokens", "random heads aimed",
    ]  # fmt: skip
    assert found["right"]["untouched"] == 1
    silent = Prompt("random", (3, 4, 5), answer=(2, 3), contrast=Contrast((3, 9), (5,), (7,)))
    assert wrong_tokens(silent) == []
    with pytest.raises(HeadscopeError, match="in which the wrong answers stand"):
        repair(model, [silent] * 4, heads)
