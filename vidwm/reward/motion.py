"""Errors where something moved: weights of pixels, from what really happened.

Most pixels of a robot video stand still, and an error averaged over all of them hears little of the
arm. Weights are 0 where the true frame equals the last context frame and alike elsewhere, with mean
1, so a weighted mean over the frame is the mean over the pixels that moved. Ours, not RLVR-World's.
"""

from __future__ import annotations

from torch import Tensor

from vidwm.reward.pixels import moving_mask


def motion_weights(true: Tensor, last_context: Tensor) -> Tensor:
    """true (B, T, 3, H, W), last_context (B, 3, H, W) in [0, 1] -> (B, T, 1, H, W) float32.

    All 0 in a frame where nothing moved.
    """
    moved = moving_mask(true, last_context[:, None]).float()
    return moved / moved.mean(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
