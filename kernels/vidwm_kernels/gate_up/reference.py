"""silu(norm(x) Wg^T) * (norm(x) Wu^T) in plain PyTorch, fp32."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vidwm_kernels.linear import linear


def gate_up(x: Tensor, norm_weight: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """The definition; contract in the package's `__init__`."""
    normed = F.rms_norm(x.float(), norm_weight.shape, norm_weight.float(), eps)
    gate, up = linear(normed, weight).chunk(2, dim=-1)
    return (F.silu(gate) * up).to(x.dtype)
