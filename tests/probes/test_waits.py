"""What a scan adds to a layer never waits for the device that the layer runs on.

A meta tensor stands for one on a GPU: it has no data, so that reading a number of it, copying it to
the host, indexing with a mask or asking which entries are not zero raises. Launches of kernels are
left out. Copies from the host, which wait as well, are allowed in the first layer alone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import sliding_window_causal_mask_function
from zoo import tiny

from headscope.probes import Model, Prompt, Watch, headrows, load
from headscope.probes.headrows import HeadRows
from headscope.probes.residual import ResidualMeter
from headscope.probes.seam import AttentionCall
from headscope.probes.visibility import Visibility, visibility

N = 90
LAYERS = 3
IDS = tuple(i % 7 + 3 for i in range(N))
PROMPTS = {
    "prose": Prompt("prose", IDS),
    "needle": Prompt("needle", IDS, {"needle": (10, 20)}, (80, 90)),
    "repeat": Prompt("repeat", IDS, offsets={"echo": (7,), "induction": (6, 13)}, meta={"period": 7}),
}
CAUSAL = visibility(q_length=N, kv_length=N)
SLIDING = visibility(
    q_length=N, kv_length=N, local_size=16, mask_function=sliding_window_causal_mask_function(16)
)


class Waits(TorchDispatchMode):
    """Collects the names of operations for which the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        devices = {x.device for x in (*args, result) if isinstance(x, torch.Tensor)}
        moved = name in ("_to_copy", "copy_") and len(devices) > 1
        masked = name in ("index", "index_put_") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        known = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "lift_fresh", "equal")
        if moved or masked or name in known:
            self.found.append(name)
        return result


class NoLaunch:
    """In place of a Triton kernel."""

    def __getitem__(self, grid: object) -> Any:
        return lambda *args, **options: None


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model, and from then on the GPU's path for every tensor, without its kernels."""
    pytest.importorskip("triton")
    loaded = load(tiny("llama"))
    from headscope.kernels import rows_auto, rows_fused, tokens_auto, tokens_triton

    for module in (rows_auto, tokens_auto):
        monkeypatch.setattr(module, "use_triton", lambda x: True)
    for name in ("_sweep", "_join_splits", "_receive", "_cut"):
        monkeypatch.setattr(rows_fused, name, NoLaunch())
    monkeypatch.setattr(tokens_triton, "_sizes", NoLaunch())
    return loaded


def waits(model: Model, prompt: Prompt, visible: Visibility, device: str) -> list[list[str]]:
    """The waits of each layer, all observers of a scan attached."""
    rows = torch.cat([torch.arange(16), torch.arange(20, N, 9)])
    exact = torch.tensor(prompt.answer_rows or (40, 89))
    heads = HeadRows(model, prompt, rows, exact, Watch(), 64)
    residual, geometry = ResidualMeter(moments=prompt.answer is None), model.geometry
    q = torch.zeros(1, geometry.heads, N, geometry.head_dim, device=device)
    k = torch.zeros(1, geometry.kv_heads, N, geometry.head_dim, device=device)
    found = []
    for layer in range(LAYERS):
        module = model.attention_modules[layer]
        call = AttentionCall(layer, module, q, k, k.clone(), visible, 0.1, None, None, q.transpose(1, 2))
        with Waits() as mode:
            residual.see(torch.zeros(1, N, geometry.hidden, device=device))
            heads.see(call)
        found.append(mode.found)
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(PROMPTS))
@pytest.mark.parametrize("held", [0, 1 << 40])
def test_no_layer_waits_for_the_gpu(
    model: Model, name: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether each layer is taken down at once or they are held."""
    model.hf.to("meta")
    monkeypatch.setattr(headrows, "_HELD", {"meta": held})
    first, *others = waits(model, PROMPTS[name], CAUSAL, "meta")
    assert "_to_copy" in first  # else copies would not be seen
    assert others == [[]] * (LAYERS - 1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["prose", "needle"])
def test_the_ranges_of_a_sliding_window_are_read_once(model: Model, name: str) -> None:
    """On the CPU, for they are read from the device; only layers after the first must not."""
    first, *others = waits(model, PROMPTS[name], SLIDING, "cpu")
    assert "_local_scalar_dense" in first
    assert others == [[]] * (LAYERS - 1)


@torch.no_grad()
def test_a_wait_is_noticed() -> None:
    """Each of the operations that the tests above rule out."""
    x = torch.ones(3)
    with Waits() as mode:
        x.sum().item(), x.nonzero(), x[x > 0], bool(x.any()), torch.tensor([1.0])
        x.to("meta")
    assert set(mode.found) >= {"_local_scalar_dense", "nonzero", "index", "lift_fresh", "_to_copy"}
    for wait in (torch.Tensor.item, torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.nonzero, bool):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait(torch.ones(1, device="meta"))
