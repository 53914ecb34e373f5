"""Finite scalar quantisation: a codebook without a codebook.

Every latent channel is squashed into a few levels and rounded; the token is the number written with
those levels as digits. No learned table, no commitment loss, no dead codes to revive.

Usual levels: (8, 6, 5) for 240 codes, (8, 5, 5, 5) for 1000, (7, 5, 5, 5, 5) for RLVR-World's 4375,
(8, 8, 8, 6, 5) for 15360. Source: Mentzer et al., arXiv 2309.15505, section 3.1 and table 1;
constants as in RLVR-World.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHRINK = 1e-3


class FSQ(nn.Module):
    """Quantiser with fixed levels; `code_dim` = len(levels), `codebook_size` = their product."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if len(levels) == 0 or min(levels) < 2:
            raise ValueError(f"fsq_levels must be integers of at least 2, got {tuple(levels)}.")
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)
        self.code_dim = len(levels)
        self.codebook_size = math.prod(levels)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """latents (B, D, h, w) -> codes (B, D, h, w), tokens (B, h, w) int64, loss (always 0).

        Gradients pass the rounding straight through. Computed in float32 whatever the autocast.
        """
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float().movedim(1, -1)
            half = (self.levels - 1) * (1 + SHRINK) / 2
            offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
            bounded = torch.tanh(latents + torch.atanh(offset / half)) * half - offset
            rounded = bounded + (bounded.round() - bounded).detach()
            digits = rounded.detach().long() + self.levels // 2
            tokens = (digits * self.basis).sum(-1)
            codes = (rounded / (self.levels // 2)).movedim(-1, 1)
        return codes, tokens, codes.new_zeros(())

    def codes(self, tokens: Tensor) -> Tensor:
        """tokens (B, h, w), 0..codebook_size-1 -> codes (B, D, h, w) in [-1, 1]."""
        digits = (tokens.unsqueeze(-1) // self.basis) % self.levels
        return ((digits - self.levels // 2) / (self.levels // 2)).movedim(-1, 1)
