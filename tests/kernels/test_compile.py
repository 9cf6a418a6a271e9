"""Every kernel compiles for the GPUs it was written for; the interpreter would not notice."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

HEAD = {"D": 128, "DP": 128, "CAP": True, "PRECISION": "tf32"}
SPLIT = {"ALONE": 4, "RING": True, "START": True, "OVERLAP": True, "CLOCK": False}
INDICES = {
    "head_list", "sinks", "windows", "starts", "slots", "group_sinks", "group_windows", "order",
    "lo", "hi", "fixed", "widths", "top_key",
}  # fmt: skip
WIDE = {"lse", "part", "a_lse", "b_lse", "entropy", "top_mass", "masses", "received"}
NARROW = {"q", "k", "v", "out", "a", "b", "dense_k", "dense_v", "stream_k", "stream_v"}
REAL = {"scale", "cap", "unit"}

KERNELS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "_stream_prefill": (
        "prefill_triton",
        HEAD | {"BM": 64, "BN": 64, "START": True, "LSE": True},
        {"num_warps": 4, "num_stages": 2},
    ),
    "_split_decode": (
        "split_triton",
        HEAD | SPLIT | {"BM": 16, "BN": 128},
        {"num_warps": 8, "num_stages": 3},
    ),
    "_merge_splits": ("split_triton", SPLIT | {"D": 128, "BD": 32, "BS": 64, "BN": 128}, {"num_warps": 4}),
    "_place": ("place_triton", {"D": 128, "DP": 128, "START": True}, {"num_warps": 1}),
    "_merge_pair": ("merge_triton", {"D": 128, "DP": 128, "BLOCK": 16, "LSE": True}, {"num_warps": 4}),
    "_sweep": (
        "rows_triton",
        HEAD | {"FIXED": 2, "M": 3, "MP": 4, "BM": 64, "BN": 64, "TOP": True, "VALUES": True},
        {"num_warps": 4, "num_stages": 3},
    ),
    "_join_splits": (
        "rows_triton",
        {"M": 3, "MP": 4, "D": 128, "DP": 128, "SP": 4, "SINKS": True, "VALUES": True},
        {"num_warps": 1},
    ),
    "_receive": (
        "rows_keys_triton",
        HEAD | {"RP": 128, "BM": 64, "BN": 128},
        {"num_warps": 4, "num_stages": 2},
    ),
    "_cut": ("rows_keys_triton", HEAD | {"BM": 16, "BN": 64}, {"num_warps": 4, "num_stages": 2}),
}


def kind(name: str, kernel: str) -> str:
    if name in REAL:
        return "fp32"
    wide = name in WIDE or (name in {"out", "sinks"} and kernel in {"_join_splits", "_cut"})
    if name == "clock":
        return "*i64"
    pointer = "*fp32" if wide else "*i32" if name in INDICES else "*bf16" if name in NARROW else ""
    return pointer or "i32"


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_compiles(monkeypatch, tmp_path, kernel):
    triton = pytest.importorskip("triton")
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is unset
    module, constants, options = KERNELS[kernel]
    function = getattr(importlib.import_module(f"headscope.kernels.{module}"), kernel)
    names = [n for n in function.arg_names if n not in constants]
    signature = {n: kind(n, kernel) for n in names} | dict.fromkeys(constants, "constexpr")
    ordered = {n: signature[n] for n in function.arg_names}
    source = compiler.ASTSource(function, ordered, constexprs=constants)
    compiled = triton.compile(source, target=target, options=options)
    assert compiled.asm["cubin"]
