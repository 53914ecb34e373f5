"""residual + x W^T in plain PyTorch, fp32."""

from __future__ import annotations

from torch import Tensor

from vidwm_kernels.linear import linear


def add_linear(residual: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The definition; contract in the package's `__init__`."""
    return (residual.float() + linear(x, weight)).to(x.dtype)
