"""LPIPS between feature maps for CPUs, fp32: few passes over memory, and in place.

Channels-last maps are read as rows of channels: one pass for lengths, one each to scale, to take
the true map off and to square, and a matrix-vector product for weights and sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidwm_kernels.lpips_distance import EPS, reference


def lpips_distance(
    pred: Sequence[Tensor], true: Sequence[Tensor], heads: Sequence[Tensor], index: Tensor
) -> Tensor:
    """The operation of the package's `__init__`; the reference where gradients are wanted."""
    wanted = torch.is_grad_enabled() and any(a.requires_grad for a in pred)
    if wanted or any(a.dtype != torch.float32 for a in pred):
        return reference.lpips_distance(pred, true, heads, index)
    return torch.stack(
        [_stage(*stage, index) for stage in zip(pred, true, heads, strict=True)]
    ).sum(dim=0)


def _stage(pred: Tensor, true: Tensor, head: Tensor, index: Tensor) -> Tensor:
    a, b = pred.movedim(1, -1), true.movedim(1, -1)
    lengths = torch.linalg.vector_norm(a, dim=-1, keepdim=True).clamp_min_(EPS)
    difference = a / lengths
    difference -= b.index_select(0, index)
    return (difference.square_() @ head).mean(dim=(1, 2))
