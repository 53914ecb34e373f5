"""How many tokens a drafted step feeds: the most expected progress for the time it takes.

A deterministic choice from past agreement and a fixed cost model, not from a clock, so that a run
can be repeated to the bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
MEMORY = 0.9  # weight of the past per token, in a rollout's running rate of agreement
HIGHEST_RATE = 0.98


class StepCost(NamedTuple):
    """What a step of R rows costs beyond them, in rows: with few rows it is its launches and its
    weights, with many its arithmetic.

    overhead: what a step of no rows would cost; apart: what is added once rollouts are unequally
    far and attention has to mask their ends, as a share of a step of one token each.
    """

    overhead: float
    apart: float


# CPU: bundled model, 16 to 128 rows, 2 cores: 3.7 ms + 0.06 ms a row; once apart 1.7 to 5 ms more.
# CUDA: kernels read lengths on the device, in step or not. An estimate, not measured.
STEP_COSTS = {"cpu": StepCost(64.0, 0.4), "cuda": StepCost(512.0, 0.0)}


class BlockSize:
    """Chooses from each rollout's rate: how often the guess for its next token was right."""

    def __init__(self, first: Tensor, cost: StepCost) -> None:
        """first: what to expect of every rollout before anything is known of it."""
        self.cost = cost
        self.rate = first.clone()

    def learn(self, rows: Tensor, right: Tensor, tried: Tensor) -> None:
        """Of `tried` tokens just decided for rollouts `rows`, the guesses of `right` were right."""
        past = MEMORY ** tried.float()
        self.rate[rows] = self.rate[rows] * past + right / tried.clamp(min=1) * (1 - past)

    def choose(
        self, rows: Tensor, active: Tensor, longest: int, certain: Tensor, in_step: int
    ) -> int:
        """Tokens to feed for rollouts `rows` (B, G), of which `active` ones still need some.

        longest: no more than that; certain (B, G): how many of the next guesses cannot be wrong;
        in_step: up to which size rollouts stay equally far, 0 where they are not.
        """
        rate, sure = self.rate[rows][active].clamp(max=HIGHEST_RATE), certain[active]
        offered = {*BLOCK_SIZES, min(1 + int(sure.max()), BLOCK_SIZES[-1])}
        fitting = sorted(size for size in offered if size <= max(longest, 1))
        sizes = torch.tensor(fitting, device=rows.device)[:, None]
        # The newest token counts always, so do sure guesses behind it, and of the others each if
        # all before it were right: 1 + r + r^2 + ...
        sure = torch.minimum(sure, sizes - 1)
        progress = sure + (1 - rate ** (sizes - sure)) / (1 - rate)
        R, overhead = rows.numel(), self.cost.overhead
        apart = self.cost.apart * (overhead + R) * (sizes[:, 0] > in_step)
        cost = overhead + R * sizes[:, 0] + apart
        return fitting[int((progress.sum(dim=1) / cost).argmax())]
