"""x W^T in fp32, for the plain definitions and for CPUs.

A product of few rows on a CPU is bound by reading the weights, and a BLAS that gets them row by row
first copies them into an order of its own. `packed` does that once.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from vidwm_kernels.dispatch import requested

# Below, a matrix stays in cache from step to step, and oneDNN's calls cost more than they save.
SMALLEST_PACKED = 2**19


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., K) times weight (N, K)^T, plain or `packed` -> (..., N) in fp32, also in autocast."""
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)  # leaving it alone when off saves 15 us
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        if weight.is_mkldnn:
            return torch.ops.mkldnn._linear_pointwise(x.float(), weight, None, "none", [], "")
        return F.linear(x.float(), weight.float())


def packed(weight: Tensor) -> Tensor:
    """A copy of weight (N, K) in the order in which a CPU reads it, where that is faster.

    Only for `linear`, of few rows and without gradients; elsewhere the weight itself comes back.
    """
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and requested() == "auto"
    if not fits or weight.numel() < SMALLEST_PACKED or not torch.backends.mkldnn.is_available():
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())
