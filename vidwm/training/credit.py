"""Whose doing a reward was: every token of a rollout's, or those near the error.

`rollout`, as in RLVR-World, gives all tokens of a rollout its one reward. Of a few hundred tokens
each then hears a signal that is mostly the noise of the others. `local` uses what a reward on
decoded frames tells for free: errors have a place and a time. A token is given the reward of the
cells around its own in its frame, and of a region that widens by a cell a frame in the later
frames, which it can influence; never of earlier ones, which it cannot. Where the regions cover
everything this is the rollout's reward-to-go, times a constant; so it aims at the same objective
with less variance, up to influence beyond the region. Causality alone is the reward-to-go of policy
gradients (Sutton and Barto, Reinforcement Learning, 2nd edition, section 13.3); the widening region
is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 1  # cells around a token's own that its frame's decoder may change, and per later frame


def local_rewards(cells: Tensor) -> Tensor:
    """Rewards of cells (B, G, T, h, w) -> rewards of tokens (B, G, T, h * w): sums over regions."""
    frames = cells.shape[2]
    totals = []
    for t in range(frames):
        parts = [_region_sum(cells[:, :, t + lag], REACH * (1 + lag)) for lag in range(frames - t)]
        totals.append(torch.stack(parts).sum(dim=0))
    return torch.stack(totals, dim=2).flatten(3)


def _region_sum(cells: Tensor, radius: int) -> Tensor:
    """Sum over the square of cells up to `radius` away; cells (B, G, h, w), zero outside."""
    size = 2 * radius + 1
    return F.avg_pool2d(cells, size, stride=1, padding=radius) * size**2
