"""A projection added to the residual stream: residual + x W^T.

The output and the down projection of a transformer layer, each in one operation with the sum that
follows it, so that decoding reads and writes the residual once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm_kernels.dispatch import pick

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def add_linear(residual: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """residual (..., N) + x (..., K) times weight (N, K)^T -> a new tensor (..., N).

    All in one dtype, float32, float16 or bfloat16; products and sum are fp32, rounded once at the
    end, also under autocast. ValueError on shapes or dtypes that do not fit. Only the reference is
    differentiable: RuntimeError from the fused version where a gradient is asked for.
    """
    N, K = weight.shape if weight.ndim == 2 else (0, 0)
    fits = N > 0 and K > 0 and x.shape[-1:] == (K,) and residual.shape == (*x.shape[:-1], N)
    if not fits:
        raise ValueError(
            f"expected residual (..., N), x (..., K) and weight (N, K), N and K at least 1, got "
            f"{tuple(residual.shape)}, {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if x.dtype not in DTYPES or not residual.dtype == x.dtype == weight.dtype:
        raise ValueError(
            f"residual, x and weight must all be float32, float16 or bfloat16, got "
            f"{residual.dtype}, {x.dtype} and {weight.dtype}"
        )
    out: Tensor = pick("add_linear", x.device)(residual, x, weight)
    return out
