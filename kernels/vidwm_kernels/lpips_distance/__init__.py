"""LPIPS between feature maps: predictions as the network gave them, against true ones made ready.

    d = sum over stages of mean over places of sum over channels of w (a / |a| - b)^2

(Zhang et al., arXiv 1801.03924, eq. 1), with |a| the length over channels at a place. The true
maps b come with unit length, which is done once (`unit`) and serves all predictions of a group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vidwm_kernels.dispatch import pick

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-10  # the least length that is divided by


def unit(maps: Tensor) -> Tensor:
    """Maps (M, C, h, w) with length 1 over channels at every place, in fp32."""
    return F.normalize(maps.float(), dim=1, eps=EPS)


def lpips_distance(
    pred: Sequence[Tensor], true: Sequence[Tensor], heads: Sequence[Tensor], index: Tensor
) -> Tensor:
    """Distance (M,) float32 of prediction m to true frame index[m].

    By stage: pred (M, C, h, w) float32, float16 or bfloat16, true (P, C, h, w) float32 of unit
    length, heads (C,) float32. index (M,) int64 in 0 .. P - 1; others are undefined. Differentiable
    in `pred` on any device, in nothing else. Computed in fp32, also under autocast. Fastest where
    maps are channels-last. ValueError on shapes or dtypes that do not fit.
    """
    if not len(pred) == len(true) == len(heads) > 0:
        raise ValueError(
            f"expected as many maps of predictions, true maps and heads, at least one, got "
            f"{len(pred)}, {len(true)} and {len(heads)}"
        )
    for stage, (a, b, head) in enumerate(zip(pred, true, heads, strict=True)):
        fits = a.ndim == b.ndim == 4 and a.shape[1:] == b.shape[1:]
        if not fits or head.shape != a.shape[1:2] or index.shape != a.shape[:1]:
            raise ValueError(
                f"stage {stage}: expected maps (M, C, h, w) and (P, C, h, w), a head (C,) and an "
                f"index (M,), got {tuple(a.shape)}, {tuple(b.shape)}, {tuple(head.shape)} and "
                f"{tuple(index.shape)}"
            )
        if a.dtype not in DTYPES or b.dtype != torch.float32 or head.dtype != torch.float32:
            raise ValueError(
                f"stage {stage}: predictions must be float32, float16 or bfloat16, true maps and "
                f"heads float32, got {a.dtype}, {b.dtype} and {head.dtype}"
            )
    if index.dtype != torch.int64:
        raise ValueError(f"index must be int64, got {index.dtype}")
    with torch.autocast(index.device.type, enabled=False):
        out: Tensor = pick("lpips_distance", index.device)(pred, true, heads, index)
    return out
