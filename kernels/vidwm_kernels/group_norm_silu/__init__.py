"""GroupNorm and SiLU, the commonest pair of a VQ-GAN's decoder, over channels-last maps."""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm_kernels.dispatch import pick
from vidwm_kernels.group_norm_silu import reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, *, eps: float) -> Tensor:
    """silu(norm(x) * weight + bias): x (M, C, h, w), weight and bias (C,) -> (M, C, h, w).

    norm takes mean and variance of every image and group of C / groups channels. x in float32,
    float16 or bfloat16, weight and bias in that or float32; fp32 inside, the result in x's dtype
    and channels-last. Differentiable on any device: the reference runs where a gradient is asked
    for. ValueError on shapes or dtypes that do not fit.
    """
    C = x.shape[1] if x.ndim == 4 else 0
    if not C or groups < 1 or C % groups or weight.shape != (C,) or bias.shape != (C,):
        raise ValueError(
            f"expected x (M, C, h, w), weight and bias (C,), C a multiple of groups, got "
            f"{tuple(x.shape)}, {tuple(weight.shape)}, {tuple(bias.shape)} and {groups} groups"
        )
    if any(t.dtype not in DTYPES for t in (x, weight, bias)):
        raise ValueError(
            f"x, weight and bias must be float32, float16 or bfloat16, got {x.dtype}, "
            f"{weight.dtype} and {bias.dtype}"
        )
    graded = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias))
    run = reference.group_norm_silu if graded else pick("group_norm_silu", x.device)
    out: Tensor = run(x, weight, bias, groups, eps=eps)
    return out
