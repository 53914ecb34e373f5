"""The first half of a gated MLP: silu(norm(x) Wg^T) * (norm(x) Wu^T), with norm an RMSNorm.

Gate and up projection are one matrix, so that both are one product and their results meet before
anything is written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm_kernels.dispatch import pick

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def gate_up(x: Tensor, norm_weight: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """x (..., D), norm_weight (D,), weight (2F, D) = F rows of gate, then F of up -> (..., F).

    norm(x) = x / sqrt(mean(x^2) + eps) * norm_weight. All in one dtype, float32, float16 or
    bfloat16; norm, products and silu are fp32, also under autocast, but x * norm_weight may be
    rounded to the dtype before it meets the weight. ValueError on shapes or dtypes that do not fit.
    Only the reference is differentiable: RuntimeError from the fused version where a gradient is
    asked for.
    """
    D = x.shape[-1] if x.ndim else 0
    two_F = weight.shape[0] if weight.ndim else 0
    fits = D > 0 and two_F > 0 and two_F % 2 == 0
    if not fits or norm_weight.shape != (D,) or weight.shape != (two_F, D):
        raise ValueError(
            f"expected x (..., D), norm_weight (D,) and weight (2F, D), D and F at least 1, got "
            f"{tuple(x.shape)}, {tuple(norm_weight.shape)} and {tuple(weight.shape)}"
        )
    if x.dtype not in DTYPES or not x.dtype == norm_weight.dtype == weight.dtype:
        raise ValueError(
            f"x, norm_weight and weight must all be float32, float16 or bfloat16, got "
            f"{x.dtype}, {norm_weight.dtype} and {weight.dtype}"
        )
    out: Tensor = pick("gate_up", x.device)(x, norm_weight, weight, eps=eps)
    return out
