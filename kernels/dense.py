"""Dense causal attention with its log-sum-exp, through the fastest backend torch offers.

torch's public scaled_dot_product_attention drops the log-sum-exp, so the same kernels are called
one level below it. On Hopper and later cuDNN is the fastest (1.6-1.8x over the bundled
FlashAttention-2); before, and for short prompts, FlashAttention-2 is. Shapes that
neither takes go to headscope's own kernel. On a CPU it is torch's flash attention for CPUs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.backends.cuda import (
    SDPAParams,
    can_use_cudnn_attention,
    can_use_flash_attention,
)

from headscope.kernels.merge import merge_into

# cuDNN builds a plan for every new pair of lengths (68 ms on the H100's host), which short prompts
# never earn back; from about 5,800 x 5,800 scores on, one pass over a 32-layer model nearly does.
CUDNN_SCORES = 1 << 25


def backend(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """ "cudnn", "flash", "cpu" or None: what takes these tensors, the fastest first."""
    if q.device.type == "cpu":
        return "cpu" if q.dtype in (torch.float32, torch.bfloat16) else None
    if not q.is_cuda or q.dtype not in (torch.float16, torch.bfloat16) or q.shape[-1] % 8:
        return None
    params = SDPAParams(q, k, v, None, 0.0, False, q.shape[1] != k.shape[1])
    usable = {"cudnn": can_use_cudnn_attention(params), "flash": can_use_flash_attention(params)}
    hopper = torch.cuda.get_device_capability(q.device) >= (9, 0)
    large = q.shape[2] * k.shape[2] >= CUDNN_SCORES
    order = ("cudnn", "flash") if hopper and large else ("flash", "cudnn")
    return next((name for name in order if usable[name]), None)


def attention(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    scale: float,
    lse: bool = True,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One backend call, causal from the top left. q [B, Hq, Nq, D], k, v [B, Hkv, Nk, D].

    A mask [B or 1, 1, Nq, Nk] to add to the scores is for the CPU alone. Returns the output and the
    natural log-sum-exp [B, Hq, Nq] (undefined unless `lse`).
    """
    if name == "cudnn":
        op = torch.ops.aten._scaled_dot_product_cudnn_attention
        out, total = op(q, k, v, None, lse, 0.0, causal, False, scale=scale)[:2]
        return out, total.squeeze(-1) if lse else total
    if name == "cpu":
        op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return op(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)
    op = torch.ops.aten._scaled_dot_product_flash_attention
    out, total = op(q, k, v, 0.0, causal, False, scale=scale)[:2]
    return out, total


def dense_into(
    out: Tensor, lse: Tensor | None, name: str, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> None:
    """Dense attention of the last Nq positions of Nk, written to `out` and, unless None, `lse`.

    The backends align a causal mask to the top left, so the keys before the first query are a
    plain rectangle, the rest a causal square, and the two are merged.
    """
    past = k.shape[2] - q.shape[2]
    want = past > 0 or lse is not None
    square = attention(name, q, k[:, :, past:], v[:, :, past:], causal=True, scale=scale, lse=want)
    if past:
        before = k[:, :, :past], v[:, :, :past]
        merge_into(out, lse, attention(name, q, *before, causal=False, scale=scale, lse=True), square)
        return
    _copy(out, square[0])
    if lse is not None:
        lse.copy_(square[1])


def _copy(target: Tensor, source: Tensor) -> None:
    """Copy 16 bytes at a time, which torch's own copy does only between contiguous tensors."""
    if source.shape[-1] * source.element_size() % 16 == 0:
        target, source = target.view(torch.complex128), source.view(torch.complex128)
    target.copy_(source)
