"""RMSNorm, gate and up projection and their product in Triton, in one launch.

A program multiplies its rows with BLOCK_N rows of the gate and the same of the up projection, so
both halves of a result are in its registers: `vidwm_kernels.add_linear.fused.product`.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# (the parameters of kernels are pointers and numbers, which Python's types have no names for)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vidwm_kernels.add_linear.fused import launch, norm_scale, product, refuse_gradients
from vidwm_kernels.launch import Launch, run_all


@triton.jit
def _gate_up(
    x, norm_weight, weight, out, R, F, eps,
    K: tl.constexpr, SCALE: tl.constexpr, SLICES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    gate, up, squares = product(
        x, norm_weight, weight, rows, R, columns, F + columns, columns < F,
        K, SCALE, SLICES, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    scale = (tl.rsqrt(squares / K + eps) / SCALE)[:, None]
    gate *= scale
    y = gate / (1 + tl.exp(-gate)) * (up * scale)
    place = rows.to(tl.int64)[:, None] * F + columns[None, :]
    inside = (rows < R)[:, None] & (columns < F)[None, :]
    tl.store(out + place, y.to(out.dtype.element_ty), mask=inside)


def gate_up(x: Tensor, norm_weight: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """The operation of the package's `__init__`."""
    refuse_gradients("gate_up", x, norm_weight, weight)
    launches, out = plan(x, norm_weight, weight, eps=eps)
    with torch.cuda.device_of(x):
        run_all(launches)
    return out


def plan(
    x: Tensor, norm_weight: Tensor, weight: Tensor, *, eps: float
) -> tuple[list[Launch], Tensor]:
    """The launches that compute what `gate_up` returns, and the tensor they will fill."""
    D, F = x.shape[-1], len(weight) // 2
    out = torch.empty((*x.shape[:-1], F), dtype=x.dtype, device=x.device)
    R = out.numel() // F
    if R == 0:
        return [], out
    args = {
        "x": x.contiguous(),
        "norm_weight": norm_weight.contiguous(),
        "weight": weight.contiguous(),
        "out": out,
        **{"R": R, "F": F, "eps": eps},
    }
    return [launch(_gate_up, args, R, F, 2, x.dtype, K=D, SCALE=norm_scale(x.dtype))], out
