"""How the rewards of a rollout's frames become the reward of the rollout: weights by frame.

`mean` is RLVR-World's for several steps (arXiv 2505.13934, section 4.3). `last` asks only how the
future ends, as the task rewards of control do. `discounted` trusts near frames more, by the
discount of reinforcement learning (Sutton and Barto, section 3.3), normalised so that rewards keep
their scale.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frame_weights(frames: int, over: str, discount: float) -> Tensor:
    """Weights (T,) >= 0 of `frames` = T predicted frames; their sum is 1.

    over: "mean", "last", or "discounted" by discount^t.
    """
    if over == "last":
        weights = torch.zeros(frames)
        weights[-1] = 1.0
        return weights
    weights = torch.ones(frames) if over == "mean" else discount ** torch.arange(float(frames))
    return weights / weights.sum()
