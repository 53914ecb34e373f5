"""MAE, MSE and SSIM in plain PyTorch, fp32."""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm_kernels.pixel_errors import C1, C2, SIGMA, WINDOW, PixelErrors

FRAME_DIMS = (-3, -2, -1)


def pixel_errors(pred: Tensor, true: Tensor, index: Tensor, *, with_ssim: bool) -> PixelErrors:
    """The definition; contract in the package's `__init__`."""
    pred, true = pred.float().clamp(0, 1), true.float().index_select(0, index)
    difference = pred - true
    return PixelErrors(
        mae=difference.abs().mean(FRAME_DIMS),
        mse=difference.square().mean(FRAME_DIMS),
        ssim=ssim(pred, true) if with_ssim else None,
    )


def ssim(pred: Tensor, true: Tensor) -> Tensor:
    """SSIM of frames (..., 3, H, W) float32 -> (...); differentiable."""
    planes = torch.stack([pred, true, pred * pred + true * true, pred * true])
    mean_x, mean_y, mean_squares, mean_product = window_mean(planes)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    luminance = (2 * product + C1) / (squares + C1)
    structure = (2 * (mean_product - product) + C2) / (mean_squares - squares + C2)
    return (luminance * structure).mean(FRAME_DIMS)


def window_mean(planes: Tensor) -> Tensor:
    """Gaussian-weighted mean over every full 11 x 11 window of planes (..., H, W).

    The window is separable, and two products with banded matrices are many times faster than
    convolutions with one channel.
    """
    height, width = planes.shape[-2:]
    return _window_rows(height, planes) @ planes @ _window_rows(width, planes).mT


def _window_rows(size: int, like: Tensor) -> Tensor:
    """(size - 10, size): row i holds the window's taps at columns i .. i + 10."""
    row = torch.arange(size - WINDOW + 1, device=like.device)[:, None]
    offsets = torch.arange(size, device=like.device) - row - WINDOW // 2
    taps = torch.exp(-offsets.float().square() / (2 * SIGMA**2))
    taps = taps.masked_fill(offsets.abs() > WINDOW // 2, 0.0)
    return taps / taps.sum(dim=1, keepdim=True)
