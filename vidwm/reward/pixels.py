"""Pixel metrics of predicted frames: MAE, MSE, PSNR, SSIM, and errors on the pixels that moved.

All take frames (..., 3, H, W) float in [0, 1], broadcast over the leading dimensions, compute in
fp32 and give one number per frame (...). PSNR uses peak 1; SSIM (Wang et al., 2004) dynamic range 1
and a Gaussian window of 11 pixels, sigma 1.5, without padding, mean over channels: both as
RLVR-World evaluates them. Most pixels of a robot video never move, so plain errors flatter a model
that repeats its last context frame; the masked ones look only where the true frame differs from it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vidwm_kernels.pixel_errors import WINDOW, reference

FRAME_DIMS = (-3, -2, -1)


def check_frames(frames: Tensor, name: str) -> None:
    """ValueError unless frames are (..., 3, H, W) floating point, finite and in [0, 1]."""
    if frames.ndim < 3 or frames.shape[-3] != 3 or not frames.is_floating_point():
        raise ValueError(
            f"{name} must be (..., 3, H, W) floating point in [0, 1], "
            f"got {tuple(frames.shape)} {frames.dtype}"
        )
    low, high = (value.item() for value in frames.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name} must lie in [0, 1], got values from {low:.4g} to {high:.4g}")


def mae(pred: Tensor, true: Tensor) -> Tensor:
    """Mean absolute error, 0..1."""
    return (pred.float() - true.float()).abs().mean(FRAME_DIMS)


def mse(pred: Tensor, true: Tensor) -> Tensor:
    """Mean squared error, 0..1."""
    return (pred.float() - true.float()).square().mean(FRAME_DIMS)


def absolute_error(pred: Tensor, true: Tensor) -> Tensor:
    """Of every pixel, mean over channels: frames (..., 3, H, W) -> (..., 1, H, W)."""
    return (pred.float() - true.float()).abs().mean(dim=-3, keepdim=True)


def squared_error(pred: Tensor, true: Tensor) -> Tensor:
    """Of every pixel, mean over channels: frames (..., 3, H, W) -> (..., 1, H, W)."""
    return (pred.float() - true.float()).square().mean(dim=-3, keepdim=True)


def psnr(pred: Tensor, true: Tensor, eps: float = 1e-8) -> Tensor:
    """Peak signal-to-noise ratio in dB, per frame; `eps` caps it at 80 dB for equal frames."""
    return psnr_of(mse(pred, true), eps)


def psnr_of(mean_squares: Tensor, eps: float = 1e-8) -> Tensor:
    """PSNR in dB of mean squared errors."""
    return -10 * torch.log10(mean_squares + eps)


def ssim(pred: Tensor, true: Tensor) -> Tensor:
    """Structural similarity, -1..1, 1 for equal frames. ValueError below 11 x 11 pixels."""
    pred, true = torch.broadcast_tensors(pred.float(), true.float())
    height, width = pred.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"ssim needs frames of at least 11 x 11 pixels, got {height} x {width}")
    return reference.ssim(pred, true)


def moving_mask(true: Tensor, last_context: Tensor, threshold: float = 0.05) -> Tensor:
    """Pixels whose largest channel difference from the last context frame exceeds `threshold`.

    true (..., 3, H, W), last_context broadcastable to it -> (..., 1, H, W) bool, True = moved.
    """
    difference = (true.float() - last_context.float()).abs()
    return difference.amax(dim=-3, keepdim=True) > threshold


def masked_mae(pred: Tensor, true: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute error over the pixels of mask (..., 1, H, W), and how many those are.

    Both (...) float32; the mean of a frame without such pixels is 0 and its count 0. Averages over
    frames weigh by pixel: (mean * count).sum() / count.sum().
    """
    return _masked_mean(absolute_error(pred, true), mask)


def masked_mse(pred: Tensor, true: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error over the pixels of mask, and their count; contract as `masked_mae`."""
    return _masked_mean(squared_error(pred, true), mask)


def _masked_mean(error: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    error, mask = torch.broadcast_tensors(error, mask)
    count = mask.sum(FRAME_DIMS).float()
    total = error.masked_fill(~mask, 0.0).sum(FRAME_DIMS)
    return total / count.clamp_min(1), count
