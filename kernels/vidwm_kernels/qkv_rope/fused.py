"""RMSNorm, q, k and v projections, rotary positions and cache in Triton, in one launch.

A column of a tile is a pair of dimensions that rotary turns by one angle: dimension p of a head and
p + Dh / 2. A program multiplies its rows with the weight rows of both, so the pair is in its
registers: `vidwm_kernels.add_linear.fused.product`. Pairs are counted across heads, so a tile need
not end where a head does, and any even Dh will do. Values are pairs as well, but are not turned.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# (the parameters of kernels are pointers and numbers, which Python's types have no names for)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vidwm_kernels.add_linear.fused import launch, norm_scale, product, refuse_gradients
from vidwm_kernels.launch import Launch, run_all


@triton.jit
def _store_pair(place, a, b, mask, HALF: tl.constexpr):
    tl.store(place, a.to(place.dtype.element_ty), mask=mask)
    tl.store(place + HALF, b.to(place.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["start", "slot"])
def _qkv_rope(
    x, norm_weight, weight, cos, sin, starts, slots, start, slot, q, suffix_k, suffix_v,
    R, G, T, H, Hkv, S, positions, k_b, k_g, k_h, k_s, v_b, v_g, v_h, v_s, eps,
    HALF: tl.constexpr, K: tl.constexpr, SCALE: tl.constexpr, SLICES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    pairs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    head, p = pairs // HALF, pairs % HALF
    first = head * (2 * HALF) + p
    a, b, squares = product(
        x, norm_weight, weight, rows, R, first, first + HALF, head < H + 2 * Hkv,
        K, SCALE, SLICES, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    scale = (tl.rsqrt(squares / K + eps) / SCALE)[:, None]
    a *= scale
    b *= scale

    rollout, t = rows // T, rows % T
    if starts is not None:
        start = tl.load(starts + rollout, mask=rows < R, other=0)
    if slots is not None:
        slot = tl.load(slots + rollout, mask=rows < R, other=0)
    position, slot = start.to(tl.int64) + t, slot.to(tl.int64) + t
    head, p = head[None, :], p[None, :]
    known = (rows < R) & (position >= 0) & (position < positions)
    turned = head < H + Hkv
    angle = position[:, None] * (2 * HALF) + p
    c = tl.load(cos + angle, mask=known[:, None] & turned, other=float("nan"))
    s = tl.load(sin + angle, mask=known[:, None] & turned, other=float("nan"))
    a, b = tl.where(turned, a * c - b * s, a), tl.where(turned, b * c + a * s, b)

    row = rows.to(tl.int64)[:, None]
    place = q + (row * H + head) * (2 * HALF) + p
    _store_pair(place, a, b, (row < R) & (head < H), HALF)
    context, rollout, slot = (row // T) // G, (row // T) % G, slot[:, None]
    room = (row < R) & (slot >= 0) & (slot < S)
    head -= H
    place = suffix_k + context * k_b + rollout * k_g + head.to(tl.int64) * k_h + slot * k_s + p
    _store_pair(place, a, b, room & (head >= 0) & (head < Hkv), HALF)
    head -= Hkv
    place = suffix_v + context * v_b + rollout * v_g + head.to(tl.int64) * v_h + slot * v_s + p
    _store_pair(place, a, b, room & (head >= 0) & (head < Hkv), HALF)


def qkv_rope(
    x: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    starts: Tensor | int,
    slots: Tensor | int,
    suffix_k: Tensor,
    suffix_v: Tensor,
    *,
    eps: float,
) -> Tensor:
    """The operation of the package's `__init__`."""
    tensors = (x, norm_weight, weight, cos, sin)
    refuse_gradients("qkv_rope", *tensors, suffix_k, suffix_v)
    launches, q = plan(*tensors, starts, slots, suffix_k, suffix_v, eps=eps)
    with torch.cuda.device_of(x):
        run_all(launches)
    return q


def plan(
    x: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    starts: Tensor | int,
    slots: Tensor | int,
    suffix_k: Tensor,
    suffix_v: Tensor,
    *,
    eps: float,
) -> tuple[list[Launch], Tensor]:
    """The launches that do what `qkv_rope` does, and the queries they will fill."""
    B, G, T, D = x.shape
    Hkv, S, Dh = suffix_k.shape[2:]
    heads = len(weight) // Dh
    H = heads - 2 * Hkv
    q = torch.empty((B, G, T, H, Dh), dtype=x.dtype, device=x.device)
    R = B * G * T
    if R == 0:
        return [], q
    args: dict[str, Any] = {
        "x": x.contiguous(),
        "norm_weight": norm_weight.contiguous(),
        "weight": weight.contiguous(),
        "cos": cos.contiguous(),
        "sin": sin.contiguous(),
        "q": q,
        "suffix_k": suffix_k,
        "suffix_v": suffix_v,
        **{"R": R, "G": G, "T": T, "H": H, "Hkv": Hkv, "S": S, "positions": len(cos), "eps": eps},
        **{f"k_{dim}": stride for dim, stride in zip("bghs", suffix_k.stride(), strict=False)},
        **{f"v_{dim}": stride for dim, stride in zip("bghs", suffix_v.stride(), strict=False)},
    }
    constants: dict[str, Any] = {"HALF": Dh // 2, "K": D, "SCALE": norm_scale(x.dtype)}
    for one, many, first in (("start", "starts", starts), ("slot", "slots", slots)):
        if isinstance(first, Tensor):
            args[many], args[one] = first.contiguous(), 0
        else:
            constants[many], args[one] = None, first
    return [launch(_qkv_rope, args, R, heads * (Dh // 2), 2, x.dtype, **constants)], q
