"""Repetition: predicted frames that are, token by token, the frame before them.

Most tokens of a video equal those of the frame before, so a model trained by likelihood alone may
stop moving altogether (RLVR-World, arXiv 2505.13934). The released code asks this of the last frame
only; here every predicted frame is asked, the first one against the last context frame.
"""

from __future__ import annotations

import torch
from torch import Tensor


def repeats(tokens: Tensor, last_context: Tensor) -> Tensor:
    """Whether all tokens of a predicted frame equal the previous frame's: (B, G, h) bool.

    tokens (B, G, h, N) and the tokens (B, N) of the last context frame.
    """
    before = last_context[:, None, None].expand(-1, tokens.shape[1], 1, -1)
    previous = torch.cat([before, tokens[:, :, :-1]], dim=2)
    return (tokens == previous).all(dim=-1)


def repetition_rate(tokens: Tensor, last_context: Tensor) -> Tensor:
    """Share of predicted frames that repeat; arguments as `repeats`, scalar in [0, 1]."""
    return repeats(tokens, last_context).float().mean()
