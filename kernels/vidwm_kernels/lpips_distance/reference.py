"""LPIPS between feature maps in plain PyTorch, fp32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidwm_kernels.lpips_distance import unit


def lpips_distance(
    pred: Sequence[Tensor], true: Sequence[Tensor], heads: Sequence[Tensor], index: Tensor
) -> Tensor:
    """The definition; contract in the package's `__init__`."""
    stages = [
        ((unit(a) - b.detach()[index]).square() * head[:, None, None]).sum(dim=1).mean(dim=(1, 2))
        for a, b, head in zip(pred, true, heads, strict=True)
    ]
    return torch.stack(stages).sum(dim=0)
