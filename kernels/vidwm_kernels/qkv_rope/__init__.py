"""From the residual stream to attention: norm, q, k and v projections, rotary positions, cache.

    x -> RMSNorm -> [q; k; v] -> q and k rotated -> q returned, k and v written into the cache

Positions and places in the cache may be tensors, read on the device: rollouts need not be in step,
and a CUDA graph replays at other positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm_kernels.dispatch import pick

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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
    """Queries (B, G, T, H, Dh) of the T next tokens of each rollout; keys and values are cached.

    x (B, G, T, D); norm_weight (D,); weight ((H + 2 Hkv) * Dh, D) = q, k and v projection one below
    the other; cos, sin (positions, Dh) float32 in Llama's order, both halves of a row alike;
    starts: position of the first of the T tokens in its sequence, slots: its place in the cache,
    each (B, G) int32 or int64, or one number for all; suffix_k, suffix_v (B, G, Hkv, S, Dh), any
    strides but rows of Dh contiguous: written in place at slots .. slots + T - 1 and nowhere else.

    norm(x) = x / sqrt(mean(x^2) + eps) * norm_weight; rotary: first * cos - second * sin, and
    second * cos + first * sin, of the two halves of a head. x, weights and cache in one dtype,
    float32, float16 or bfloat16; fp32 inside, also under autocast, but x * norm_weight may be
    rounded to the dtype before it meets the weight.

    ValueError on shapes or dtypes that do not fit, and on positions or places out of range. The
    last is checked for numbers and on CPUs only: elsewhere, what has no place in the cache is not
    written and what has no position is nan. Only the reference is differentiable: RuntimeError from
    the fused version where a gradient is asked for.
    """
    _check_shapes(x, norm_weight, weight, cos, sin, suffix_k, suffix_v)
    _check_places("starts", starts, x, "the rotary tables", len(cos))
    _check_places("slots", slots, x, "the cache", suffix_k.shape[3])
    implementation = pick("qkv_rope", x.device)
    q: Tensor = implementation(
        x, norm_weight, weight, cos, sin, starts, slots, suffix_k, suffix_v, eps=eps
    )
    return q


def _check_shapes(
    x: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    suffix_k: Tensor,
    suffix_v: Tensor,
) -> None:
    given = (x, norm_weight, weight, cos, sin, suffix_k, suffix_v)
    fits = [t.ndim for t in given] == [4, 1, 2, 2, 2, 5, 5]
    if fits:
        Hkv, Dh = suffix_k.shape[2], suffix_k.shape[4]
        rows, D = weight.shape
        fits = (
            suffix_k.shape == suffix_v.shape
            and suffix_k.shape[:2] == x.shape[:2]
            and x.shape[3] == len(norm_weight) == D > 0
            and cos.shape == sin.shape == (len(cos), Dh)
            and min(Hkv, Dh) > 0
            and Dh % 2 == 0
            and rows % Dh == 0
            and rows // Dh > 2 * Hkv
        )
    if not fits:
        raise ValueError(
            "expected x (B, G, T, D), norm_weight (D,), weight ((H + 2 Hkv) * Dh, D), cos and sin "
            "(positions, Dh) and suffix_k and suffix_v (B, G, Hkv, S, Dh), Dh even and none of D, "
            f"H, Hkv and Dh 0, got {', '.join(str(tuple(t.shape)) for t in given)}"
        )
    dtypes = [t.dtype for t in given]
    half = (torch.float32, torch.float32)
    if x.dtype not in DTYPES or dtypes != [x.dtype] * 3 + [*half] + [x.dtype] * 2:
        raise ValueError(
            "cos and sin must be float32, all else one of float32, float16 and bfloat16, got "
            f"{', '.join(str(dtype) for dtype in dtypes)}"
        )
    if suffix_k.stride(4) != 1 or suffix_v.stride(4) != 1:
        raise ValueError(
            f"the last dimension of suffix_k and suffix_v must be contiguous, got strides "
            f"{suffix_k.stride()} and {suffix_v.stride()}"
        )


def _check_places(name: str, first: Tensor | int, x: Tensor, what: str, room: int) -> None:
    B, G, T, _ = x.shape
    low = high = first
    if isinstance(first, Tensor):
        if first.shape != (B, G) or first.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"{name} must be a number or {(B, G)} int32 or int64, one per rollout, got "
                f"{tuple(first.shape)} {first.dtype}"
            )
        # Asking a GPU would make the CPU wait for it at every token.
        if first.device.type != "cpu" or first.numel() == 0:
            return
        low, high = (int(bound) for bound in first.aminmax())
    if low < 0 or high + T > room:
        raise ValueError(
            f"{name} {low} to {high} and {T} tokens from there on do not fit into {what} of {room}"
        )
