"""Decoding attention of G rollouts that share one context.

out = softmax(q [prefix_k, suffix_k]^T / sqrt(D)) [prefix_v, suffix_v], where all G rollouts of a
context read the same prefix, stored once. The newest Tq positions of a suffix belong to the queries
themselves, which are causal among each other. Suffixes may have different lengths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm_kernels.dispatch import pick

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def group_attention(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    suffix_k: Tensor,
    suffix_v: Tensor,
    suffix_lengths: Tensor | int,
) -> Tensor:
    """Attend to the whole prefix and to the first `suffix_lengths` positions of the suffix.

    q (B, G, Tq, H, D); prefix_k, prefix_v (B, Hkv, P, D); suffix_k, suffix_v (B, G, Hkv, S, D);
    suffix_lengths (B, G) int32 or int64, or one number for all, the Tq newest positions included
    -> (B, G, Tq, H, D) in the dtype of q. Query t sees suffix positions up to length - Tq + t; what
    lies beyond is not seen, but must be finite where lengths are a tensor. Query head h uses key
    head h // (H / Hkv). All tensors in one dtype, float32, float16 or bfloat16; fp32 inside, also
    under autocast, but weights may be rounded to the dtype before they meet the values.

    ValueError on shapes or dtypes that do not fit and on lengths out of range; the last is checked
    for numbers and on CPUs only. Only the reference is differentiable: RuntimeError from the fused
    version where a gradient is asked for.
    """
    _check_shapes(q, prefix_k, prefix_v, suffix_k, suffix_v)
    _check_lengths(suffix_lengths, q, suffix_k.shape[3])
    if q.numel() == 0:
        return torch.empty_like(q)
    implementation = pick("group_attention", q.device)
    out: Tensor = implementation(q, prefix_k, prefix_v, suffix_k, suffix_v, suffix_lengths)
    return out


def _check_shapes(
    q: Tensor, prefix_k: Tensor, prefix_v: Tensor, suffix_k: Tensor, suffix_v: Tensor
) -> None:
    given = (q, prefix_k, prefix_v, suffix_k, suffix_v)
    fits = [x.ndim for x in given] == [5, 4, 4, 5, 5]
    if fits:
        B, G, _, H, D = q.shape
        Hkv, P = prefix_k.shape[1:3]
        S = suffix_k.shape[3]
        fits = (
            prefix_k.shape == prefix_v.shape == (B, Hkv, P, D)
            and suffix_k.shape == suffix_v.shape == (B, G, Hkv, S, D)
            and min(Hkv, P, D) > 0
            and H % Hkv == 0
        )
    if not fits:
        raise ValueError(
            f"expected q (B, G, Tq, H, D), prefix (B, Hkv, P, D) twice and suffix "
            f"(B, G, Hkv, S, D) twice with P > 0 and H a multiple of Hkv, got "
            f"{', '.join(str(tuple(x.shape)) for x in given)}"
        )
    if q.dtype not in DTYPES or any(x.dtype != q.dtype for x in given):
        raise ValueError(
            f"all tensors must be float32, float16 or bfloat16, one for all, got "
            f"{', '.join(str(x.dtype) for x in given)}"
        )


def _check_lengths(lengths: Tensor | int, q: Tensor, room: int) -> None:
    Tq = q.shape[2]
    low = high = lengths
    if isinstance(lengths, Tensor):
        if lengths.shape != q.shape[:2] or lengths.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"suffix_lengths must be a number or {tuple(q.shape[:2])} int32 or int64, one per "
                f"rollout, got {tuple(lengths.shape)} {lengths.dtype}"
            )
        # Asking a GPU would make the CPU wait for it at every token.
        if lengths.device.type != "cpu" or lengths.numel() == 0:
            return
        low, high = (int(bound) for bound in lengths.aminmax())
    if not 0 < Tq <= low <= high <= room:
        raise ValueError(
            f"suffix_lengths {low} to {high} must lie between Tq = {Tq} (at least 1) and S = {room}"
        )
