"""Gates: the gradient is right, both ends mean what they say, and a training finds what was planted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from zoo import tiny

from headscope.heads import GateProgress, GateSettings, HeadMap, gate_training, length_schedule, train_gates
from headscope.heads.gate_plan import GatePlan
from headscope.heads.gates import distil, gated, teach
from headscope.heads.headmap import MapMeta
from headscope.heads.storage import read_table, write_table
from headscope.probes import BadFile, HeadscopeError, Model, Prompt, attach, fused, load

SINK, RECENT = 3, 6
SETTINGS = GateSettings(steps=12, lengths=(24, 31), sink=SINK, recent=RECENT, learning_rate=0.1)


def prompt(length: int, seed: int = 0, question: int = 6) -> Prompt:
    drawn = torch.randint(3, 96, (length,), generator=torch.Generator().manual_seed(seed))
    return Prompt("made up", tuple(drawn.tolist()), {"question": (length - question, length - question + 1)})


class MadeUp:
    """A task of random tokens that reads no tokenizer."""

    name, summary = "made up", "random tokens"

    def prompts(self, tokenizer: Any, *, lengths: Sequence[int], seed: int, **_: Any) -> list[Prompt]:
        return [prompt(n, seed, n // 2) for n in lengths]


def ids(length: int) -> Tensor:
    return torch.tensor([prompt(length).ids])


def final(model: Model, length: int, gates: Tensor, sink: int = SINK, recent: int = RECENT) -> Tensor:
    with torch.no_grad(), attach(model, attend=gated(gates, sink, recent)):
        return model.decoder(input_ids=ids(length), use_cache=False).last_hidden_state


def all_gates(model: Model, value: float) -> Tensor:
    return torch.full((model.geometry.layers, model.geometry.kv_heads), value)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["llama", "llama-one-kv-head", "llama-no-groups", "gpt2"])
def test_the_gradient_equals_finite_differences(
    name: str, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wide(self: Any, x: Tensor) -> Tensor:  # transformers' own computes in float32
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", wide)
    model = load(tiny(name).double())
    shape = model.geometry.layers, model.geometry.kv_heads
    start = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 0.8 + 0.1

    def loss(at: Tensor) -> tuple[float, Tensor]:
        gates = at.clone().requires_grad_()
        options = {"sink": SINK, "recent": RECENT, "penalty": 0.3, "recompute": recompute}
        found = distil(model, gates, prompt(40), **options)
        assert gates.grad is not None
        return found + 0.3 * float(at.abs().mean()), gates.grad

    value, gradient = loss(start)
    assert value > 0.01
    step = 1e-5
    for i in range(shape[0]):
        for j in range(shape[1]):
            up, down = start.clone(), start.clone()
            up[i, j] += step
            down[i, j] -= step
            slope = (loss(up)[0] - loss(down)[0]) / (2 * step)
            assert float(gradient[i, j]) == pytest.approx(slope, rel=1e-4, abs=1e-8), (i, j)


@pytest.mark.parametrize("name", ["gemma2", "gpt-oss", "mistral-window"])
def test_the_gradient_through_layers_that_need_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soft caps, learned sinks, stored masks: many small blocks, against the slope along one direction."""
    model = load(tiny(name))
    start, along = all_gates(model, 0.5), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    along /= along.abs().max()

    def loss(at: Tensor) -> tuple[float, Tensor]:
        gates = at.clone().requires_grad_()
        found = distil(model, gates, prompt(40), sink=SINK, recent=RECENT, penalty=0.0)
        assert gates.grad is not None
        return found, gates.grad

    whole = loss(start)[1]
    for limit in ("MASK_ELEMENTS", "_EXACT_ELEMENTS"):
        monkeypatch.setattr(fused, limit, 6 * 40 * 7)
    value, gradient = loss(start)
    torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-6)
    step = 0.02
    slope = (loss(start + step * along)[0] - loss(start - step * along)[0]) / (2 * step)
    assert value > 1e-4
    assert float((gradient * along).sum()) == pytest.approx(slope, rel=0.02)


def test_open_gates_are_the_untouched_model(any_model: Model) -> None:
    with torch.no_grad():
        with attach(any_model):
            exact = any_model.decoder(input_ids=ids(150), use_cache=False).last_hidden_state
        plain = any_model.decoder(input_ids=ids(150), use_cache=False).last_hidden_state
    opened = final(any_model, 150, all_gates(any_model, 1.0))
    assert torch.equal(opened, exact)
    torch.testing.assert_close(opened, plain, atol=2e-5, rtol=1e-4)


def test_closed_gates_are_sink_and_window(any_model: Model) -> None:
    """Against transformers' own eager attention under masks built here, two blocks of rows long."""
    n, hf = 150, any_model.hf
    row, key = torch.arange(n)[:, None], torch.arange(n)[None]
    kept = (key <= row) & ((key < SINK) | (row - key < RECENT))

    def mask(window: int | None) -> Tensor:
        seen = kept if window is None else kept & (row - key < window)
        return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]

    windows = any_model.geometry.windows
    narrow = next((w for w in windows if w), None)
    given: Any = mask(narrow)
    if hf.config.model_type in ("qwen2", "qwen3", "gemma2", "gemma3_text", "gpt_oss"):
        given = {"full_attention": mask(None), "sliding_attention": mask(narrow)}
    else:
        assert len(set(windows)) == 1
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        expected = any_model.decoder(input_ids=ids(n), attention_mask=given, use_cache=False)
    closed = final(any_model, n, all_gates(any_model, 0.0))
    torch.testing.assert_close(closed, expected.last_hidden_state, atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize(("sink", "recent"), [(0, 1), (1, 1), (40, 3), (200, 200)])
def test_windows_of_every_size(sink: int, recent: int) -> None:
    model = load(tiny("llama"))
    row, key = torch.arange(140)[:, None], torch.arange(140)[None]
    seen = (key <= row) & ((key < sink) | (row - key < recent))
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        expected = model.decoder(input_ids=ids(140), attention_mask=mask, use_cache=False).last_hidden_state
    closed = final(model, 140, all_gates(model, 0.0), sink, recent)
    torch.testing.assert_close(closed, expected, atol=2e-5, rtol=1e-4)


def test_the_teacher_is_the_untouched_model_and_nothing_is_left_behind() -> None:
    model = load(tiny("llama"))
    with torch.no_grad():
        hidden = model.decoder(input_ids=ids(30), use_cache=False).last_hidden_state
    assert torch.equal(teach(model, prompt(30)), hidden[0, 24:])
    gates = all_gates(model, 0.5).requires_grad_()
    distil(model, gates, prompt(30), sink=1, recent=2, recompute=True)
    assert all(p.requires_grad and p.grad is None for p in model.hf.parameters())
    assert all("forward" not in layer.__dict__ for layer in model.layer_modules)
    assert model.hf.config._attn_implementation != "headscope"


def test_the_one_kv_head_that_matters_keeps_its_gate(tmp_path: Path) -> None:
    """Every other group's way out, W_O, leads almost nowhere."""
    model = load(tiny("llama"))
    layer, kv_head, group, width = 1, 1, 3, 8
    with torch.no_grad():
        for i in range(3):
            matters = torch.zeros(48, dtype=torch.bool)
            if i == layer:
                matters[kv_head * group * width : (kv_head + 1) * group * width] = True
            model.output_projection(i).weight[:, ~matters] *= 0.001
    settings = SETTINGS.model_copy(update={"steps": 60, "penalty": 0.02})
    found = train_gates(model, settings, tmp_path, task=MadeUp())
    gates = found.grid("gate").to_numpy()
    assert gates[layer, kv_head * group] > 0.7
    others = found.frame.query("not (layer == @layer and kv_head == @kv_head)")["gate"]
    assert others.max() < 0.1
    assert (found.frame.groupby(["layer", "kv_head"])["gate"].nunique() == 1).all()
    # The file is the same map, and says what it is.
    again = HeadMap.open(tmp_path)
    pd.testing.assert_frame_equal(again.frame, found.frame)
    assert isinstance(again.meta, MapMeta)
    assert again.meta.fingerprint == model.fingerprint
    assert again.meta.columns["gate"].prompts == 60
    assert again.top("gate", 3)[["layer", "head"]].to_numpy().tolist() == [[1, 3], [1, 4], [1, 5]]
    curve = pd.read_parquet(tmp_path / "curve.parquet")
    assert curve["step"].tolist() == list(range(1, 61))
    assert curve["learning_rate"].max() == pytest.approx(0.1)
    assert curve["learning_rate"].iloc[[0, -1]].tolist() == pytest.approx([0.01, 0.01])
    assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "done"


def test_a_layer_narrower_than_the_window_needs_no_gate() -> None:
    model = load(tiny("mistral-window"))
    settings = SETTINGS.model_copy(update={"steps": 30, "recent": 12, "lengths": (40,)})
    assert train_gates(model, settings, task=MadeUp()).frame["gate"].max() == 0


class Killed(Exception):
    pass


def test_a_killed_training_ends_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_training, "SAVE_EVERY", 3)
    model = load(tiny("llama"))
    whole = train_gates(model, SETTINGS, tmp_path / "whole", task=MadeUp())
    folder = tmp_path / "killed"

    def kill_at(step: int) -> Any:
        def progress(at: GateProgress) -> None:
            if at.done == step:
                raise Killed

        return progress

    for step in (2, 7, 11):  # before the first save, between two, between a later two
        with pytest.raises(Killed):
            train_gates(model, SETTINGS, folder, task=MadeUp(), progress=kill_at(step))
        curve = folder / "curve.parquet"
        if curve.exists():  # as if killed after the curve was written and before the state was
            table, plan = read_table(curve, GatePlan)
            write_table(curve, pd.concat([table, table.tail(1)]), plan)
    steps: list[GateProgress] = []
    resumed = train_gates(model, SETTINGS, folder, task=MadeUp(), progress=steps.append)
    assert steps[0].done == 9 and steps[-1].done == 12 and steps[-1].share == 1.0
    pd.testing.assert_frame_equal(resumed.frame, whole.frame)
    curves = [pd.read_parquet(p / "curve.parquet") for p in (folder, tmp_path / "whole")]
    pd.testing.assert_frame_equal(*(c.drop(columns="seconds") for c in curves))
    assert sorted(p.name for p in folder.iterdir()) == [
        "curve.parquet", "gates.safetensors", "headmap.parquet", "manifest.json",
    ]  # fmt: skip
    assert train_gates(model, SETTINGS, folder, task=MadeUp()).frame.equals(whole.frame)  # already done


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    model = load(tiny("llama"))
    train_gates(model, SETTINGS, tmp_path, task=MadeUp())
    other = SETTINGS.model_copy(update={"penalty": 0.1})
    with pytest.raises(HeadscopeError, match=r"another training of gates \(penalty 0.05, not 0.1\)"):
        train_gates(model, other, tmp_path, task=MadeUp())
    (tmp_path / "gates.safetensors").write_bytes(b"nonsense")
    with pytest.raises(BadFile, match=r"gates\.safetensors' is damaged"):
        train_gates(model, SETTINGS, tmp_path, task=MadeUp())
    (tmp_path / "manifest.json").write_text('{"plan": {}}')
    with pytest.raises(HeadscopeError, match="holds something else than gates"):
        train_gates(model, SETTINGS, tmp_path, task=MadeUp())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, "steps is 0, but must be at least 1."),
        ({"sink": -1}, "sink is -1, but must be at least 0."),
        ({"recent": 0}, "recent is 0, but must be at least 1."),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, but must be above 0 and at most 1."),
        ({"penalty": float("nan")}, "penalty is nan, but must be a number from 0."),
        ({"lengths": (9, 40)}, "Prompts of 9 tokens fit into sink + recent = 3 + 6 keys"),
        ({"lengths": ()}, "Prompts of 0 tokens fit"),
        ({"lengths": (20, 257)}, "length is 257 tokens, but 'LlamaForCausalLM' was built for at most 256."),
    ],
)
def test_bad_settings_are_one_sentence(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(HeadscopeError) as error:
        train_gates(load(tiny("llama")), SETTINGS.model_copy(update=change), tmp_path / "no", task=MadeUp())
    assert sentence in str(error.value)
    assert not (tmp_path / "no").exists()


def test_models_and_prompts_that_cannot_be_trained_on() -> None:
    model = load(tiny("llama"))
    with pytest.raises(HeadscopeError, match="loaded without a tokenizer"):
        train_gates(model, SETTINGS)
    with pytest.raises(HeadscopeError, match=r"There is no task 'recitle'\. Did you mean 'recital'"):
        model.tokenizer = object()  # type: ignore[assignment]
        train_gates(model, SETTINGS, task="recitle")
    silent = Prompt("prose", (1, 2, 3))
    with pytest.raises(HeadscopeError, match="'prose' prompts do not"):
        distil(model, all_gates(model, 1.0).requires_grad_(), silent, sink=1, recent=1)
    with torch.no_grad():
        model.output_projection(0).weight.fill_(torch.inf)
    with pytest.raises(HeadscopeError, match="The loss of step 1 is nan in float32"):
        train_gates(model, SETTINGS, task=MadeUp())


def test_the_schedule_of_lengths() -> None:
    lengths = length_schedule(1000, 32000)
    assert len(lengths) == 50 and lengths[0] == 1000 and lengths[-1] == 32000
    assert length_schedule(7, 9) == (7, 8, 9)
    with pytest.raises(HeadscopeError, match="shortest prompt is 10 tokens and the longest 9"):
        length_schedule(10, 9)
