"""Token ids to the decoder's input: rows of a table, laid out as a channels-last map.

The table has code and post-quantisation projection of every token in one, so a frame of tokens
becomes a map by one gather.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm_kernels.dispatch import pick

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def embed_codes(tokens: Tensor, table: Tensor, grid: tuple[int, int]) -> Tensor:
    """tokens (M, h * w) int64 row by row, table (K, C) -> (M, C, h, w), contiguous in C.

    Differentiable in the table on any device. ValueError on shapes or dtypes that do not fit. Ids
    outside of 0 .. K - 1 are an IndexError of the reference; the fused version, which cannot look
    at them without waiting, makes their places nan.
    """
    h, w = grid
    if tokens.ndim != 2 or tokens.dtype != torch.int64 or tokens.shape[1] != h * w:
        raise ValueError(
            f"tokens must be (M, {h * w}) int64 for a grid of {h} x {w}, got "
            f"{tuple(tokens.shape)} {tokens.dtype}"
        )
    if table.ndim != 2 or 0 in table.shape or table.dtype not in DTYPES:
        raise ValueError(
            f"table must be (K, C) float32, float16 or bfloat16, got {tuple(table.shape)} "
            f"{table.dtype}"
        )
    rows: Tensor = pick("embed_codes", tokens.device)(tokens, table)
    return rows.view(len(tokens), h, w, table.shape[1]).movedim(-1, 1)
