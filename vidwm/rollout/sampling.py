"""How tokens are drawn, and what the randomness of each starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from vidwm_kernels.sample_tokens import SMALLEST_TEMPERATURE, token_states

from vidwm.errors import UserError
from vidwm.world_model.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Temperature 0 takes the likeliest token; top_k 0, top_p 1 and min_p 0 keep all of them.

    Filters apply in this order, each to what the one before left, after the temperature.
    reject_repeats: how often a frame is drawn anew while it repeats the frame before it, token by
    token; the log-probabilities stay those of the model, not of what is left of it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    reject_repeats: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        inside = self.temperature == 0 or SMALLEST_TEMPERATURE <= self.temperature < math.inf
        if not (inside and self.top_k >= 0 and 0 < self.top_p <= 1 and 0 <= self.min_p <= 1):
            raise UserError(
                f"Sampling needs temperature 0 or >= {SMALLEST_TEMPERATURE:g} and finite, "
                f"top_k >= 0, 0 < top_p <= 1 and 0 <= min_p <= 1, "
                f"got {self.temperature}, {self.top_k}, {self.top_p} and {self.min_p}."
            )
        if self.reject_repeats < 0:
            raise UserError(f"reject_repeats must be at least 0, got {self.reject_repeats}.")


def random_states(
    layout: Layout, keys: Tensor, group_size: int, sampling: Sampling, horizon: int, first: int
) -> Tensor:
    """What the randomness of every token starts from: (B, G, horizon, N) int64."""
    N = layout.tokens_per_frame
    rollouts = torch.arange(first, first + group_size, device=keys.device)
    places = torch.arange(horizon * N, device=keys.device).view(horizon, N)
    return token_states(sampling.seed, keys, rollouts, places)
