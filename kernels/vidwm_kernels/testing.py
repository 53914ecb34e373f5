"""How close two implementations of an operation must be: the one table for tests and benchmarks.

Relative and absolute tolerance by operation and dtype of the inputs. All implementations accumulate
in fp32, so for half precision one rounding dominates: of the output, or of the normed states where
there are such. Absolute tolerances are for outputs of the size of 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCES: dict[str, dict[torch.dtype, tuple[float, float]]] = {
    "add_linear": {
        torch.float32: (1e-5, 1e-5),
        torch.float16: (1e-3, 1e-4),
        torch.bfloat16: (8e-3, 1e-4),
    },
    "embed_codes": dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), (0.0, 0.0)),
    "gate_up": {
        torch.float32: (1e-5, 2e-5),
        torch.float16: (2e-3, 4e-3),
        torch.bfloat16: (1.6e-2, 4e-2),
    },
    "group_attention": {
        torch.float32: (1e-5, 2e-6),
        torch.float16: (2e-3, 1e-3),
        torch.bfloat16: (1.6e-2, 4e-3),
    },
    "group_norm_silu": {
        torch.float32: (1e-5, 1e-5),
        torch.float16: (2e-3, 1e-3),
        torch.bfloat16: (1.6e-2, 4e-3),
    },
    # The values; gradients are rounded once to the dtype of the maps.
    "lpips_distance": {
        torch.float32: (1e-5, 1e-7),
        torch.float16: (2e-3, 1e-6),
        torch.bfloat16: (1.6e-2, 1e-6),
    },
    "pixel_errors": dict.fromkeys(
        (torch.float32, torch.float16, torch.bfloat16),
        (1e-5, 2e-6),  # frames are read exactly
    ),
    "qkv_rope": {
        torch.float32: (1e-5, 1e-5),
        torch.float16: (2e-3, 2e-3),
        torch.bfloat16: (1.6e-2, 2e-2),
    },
    "sample_tokens": {
        torch.float32: (1e-5, 1e-5),
        torch.float16: (1e-3, 5e-3),
        torch.bfloat16: (8e-3, 4e-2),
    },
}


def assert_close(op: str, actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """AssertionError when results of `op` on inputs of `dtype` differ by more than the table says.

    `expected` may be in higher precision; the comparison is in float64.
    """
    rtol, atol = TOLERANCES[op][dtype]
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=atol)
