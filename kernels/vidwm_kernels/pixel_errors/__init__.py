"""How far predicted frames are from true ones in their pixels: MAE, MSE and SSIM in one pass.

SSIM (Wang et al., 2004): dynamic range 1, a Gaussian window of 11 pixels, sigma 1.5, without
padding, mean over channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vidwm_kernels.dispatch import pick

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WINDOW = 11
SIGMA = 1.5
# Stabilisers of SSIM's two ratios: (0.01 * range)^2 and (0.03 * range)^2.
C1, C2 = 0.01**2, 0.03**2


class PixelErrors(NamedTuple):
    """All (M,) float32; ssim is None unless it was asked for."""

    mae: Tensor
    mse: Tensor
    ssim: Tensor | None


def pixel_errors(pred: Tensor, true: Tensor, index: Tensor, *, with_ssim: bool) -> PixelErrors:
    """Errors of pred (M, 3, H, W), clamped to [0, 1], against true[index], true (P, 3, H, W).

    Frames are float32, float16 or bfloat16, in any layout; fp32 inside. index (M,) int64 in
    0 .. P - 1; others are undefined. No gradients: they are an error. ValueError on shapes or
    dtypes that do not fit, and where SSIM's window does not.
    """
    frames = pred.ndim == true.ndim == 4 and pred.shape[1] == 3 and pred.shape[1:] == true.shape[1:]
    if not frames or index.shape != pred.shape[:1] or index.dtype != torch.int64:
        raise ValueError(
            f"expected pred (M, 3, H, W), true (P, 3, H, W) and index (M,) int64, got "
            f"{tuple(pred.shape)}, {tuple(true.shape)} and {tuple(index.shape)} {index.dtype}"
        )
    if pred.dtype not in DTYPES or true.dtype not in DTYPES:
        raise ValueError(
            f"frames must be float32, float16 or bfloat16, got {pred.dtype} and {true.dtype}"
        )
    if with_ssim and min(pred.shape[2:]) < WINDOW:
        raise ValueError(
            f"ssim needs frames of at least {WINDOW} x {WINDOW} pixels, got {pred.shape[2]} x "
            f"{pred.shape[3]}"
        )
    if torch.is_grad_enabled() and (pred.requires_grad or true.requires_grad):
        raise RuntimeError("pixel_errors has no backward; use vidwm.reward.pixels for a loss")
    found: PixelErrors = pick("pixel_errors", pred.device)(pred, true, index, with_ssim=with_ssim)
    return found
