"""MAE, MSE and SSIM in Triton: every pixel of prediction and truth is loaded once per tile.

A program takes a tile of SIZE x SIZE pixels of one frame, all channels. The window's means are two
products with its banded matrix of taps, as in the reference, and give SIZE - 10 rows and columns;
so tiles overlap by 10 pixels, read again from L2. A pixel's error counts in the first tile that has
it. Each tile leaves its three sums.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# (the parameters of kernels are pointers and numbers, which Python's types have no names for)

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from vidwm_kernels.launch import Launch, run_all
from vidwm_kernels.pixel_errors import C1, C2, SIGMA, WINDOW, PixelErrors

SIZE = 32
TAP_SUM = sum(math.exp(-((k - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for k in range(WINDOW))


@triton.jit
def _means(plane, taps, taps_t):
    """Window means of a tile: taps (SIZE, SIZE) along rows and, transposed, along columns."""
    rows = tl.dot(taps, plane, input_precision="ieee")
    return tl.dot(rows, taps_t, input_precision="ieee")


@triton.jit
def _tiles(
    pred, true, index, sums, a_m, a_c, a_y, a_x, b_m, b_c, b_y, b_x, H, W, across, tiles,
    SSIM: tl.constexpr, SIZE: tl.constexpr, WINDOW: tl.constexpr, TWO_SIGMA2: tl.constexpr,
    TAP_SUM: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr,
):  # fmt: skip
    """sums (M, 3, tiles): absolute errors, squared errors, SSIM of a tile."""
    m, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    STEP: tl.constexpr = SIZE - WINDOW + 1 if SSIM else SIZE
    i = tl.arange(0, SIZE)
    top, left = tile // across * STEP, tile % across * STEP
    y, x = (top + i)[:, None], (left + i)[None, :]
    inside = (y < H) & (x < W)
    # The last tile of a row or column keeps its far border, which no other tile has.
    last_row, last_column = tile + across >= tiles, tile % across == across - 1
    own = inside & ((i < STEP) | last_row)[:, None] & ((i < STEP) | last_column)[None, :]
    row = tl.load(index + m)

    apart = (i[None, :] - i[:, None]).to(tl.float32) - WINDOW // 2
    taps = tl.exp(-apart * apart / TWO_SIGMA2) / TAP_SUM
    taps = tl.where(tl.abs(apart) <= WINDOW // 2, taps, 0.0)
    whole = (i < STEP)[:, None] & (i < STEP)[None, :] & (y + WINDOW <= H) & (x + WINDOW <= W)

    absolute = tl.zeros((SIZE, SIZE), tl.float32)
    squared = tl.zeros((SIZE, SIZE), tl.float32)
    similar = tl.zeros((SIZE, SIZE), tl.float32)
    for c in range(3):
        at = m * a_m + c * a_c + y.to(tl.int64) * a_y + x * a_x
        a = tl.load(pred + at, mask=inside, other=0.0).to(tl.float32)
        a = tl.where(a == a, tl.clamp(a, 0.0, 1.0), a)
        at = row * b_m + c * b_c + y.to(tl.int64) * b_y + x * b_x
        b = tl.load(true + at, mask=inside, other=0.0).to(tl.float32)
        error = tl.where(own, a - b, 0.0)
        absolute += tl.abs(error)
        squared += error * error
        if SSIM:
            taps_t = tl.trans(taps)
            mean_a, mean_b = _means(a, taps, taps_t), _means(b, taps, taps_t)
            product, squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
            luminance = (2 * product + C1) / (squares + C1)
            covariance = _means(a * b, taps, taps_t) - product
            variances = _means(a * a + b * b, taps, taps_t) - squares
            structure = (2 * covariance + C2) / (variances + C2)
            similar += tl.where(whole, luminance * structure, 0.0)
    place = sums + m * 3 * tiles + tile
    tl.store(place, tl.sum(tl.sum(absolute, 1), 0))
    tl.store(place + tiles, tl.sum(tl.sum(squared, 1), 0))
    tl.store(place + 2 * tiles, tl.sum(tl.sum(similar, 1), 0))


def pixel_errors(pred: Tensor, true: Tensor, index: Tensor, *, with_ssim: bool) -> PixelErrors:
    """The operation of the package's `__init__`."""
    launches, sums = plan(pred, true, index, with_ssim=with_ssim)
    with torch.cuda.device_of(pred):
        run_all(launches)
    H, W = pred.shape[2:]
    absolute, squared, similar = sums.sum(dim=2).unbind(1)
    count = 3 * H * W
    windows = 3 * (H - WINDOW + 1) * (W - WINDOW + 1)
    return PixelErrors(
        mae=absolute / count,
        mse=squared / count,
        ssim=similar / windows if with_ssim else None,
    )


def plan(
    pred: Tensor, true: Tensor, index: Tensor, *, with_ssim: bool
) -> tuple[list[Launch], Tensor]:
    """The launches, and the sums (M, 3, tiles) they will fill."""
    (M, _, H, W) = pred.shape
    step, margin = (SIZE - WINDOW + 1, WINDOW - 1) if with_ssim else (SIZE, 0)
    across = triton.cdiv(W - margin, step)
    tiles = triton.cdiv(H - margin, step) * across
    sums = torch.empty((M, 3, tiles), device=pred.device)
    if not sums.numel():
        return [], sums
    strides = dict(zip(("a_m", "a_c", "a_y", "a_x"), pred.stride(), strict=True))
    strides |= dict(zip(("b_m", "b_c", "b_y", "b_x"), true.stride(), strict=True))
    sizes = {"H": H, "W": W, "across": across, "tiles": tiles}
    launch = Launch(
        kernel=_tiles,
        grid=(M, tiles),
        args={"pred": pred, "true": true, "index": index.contiguous(), "sums": sums}
        | strides
        | sizes,
        constants={
            **{"SSIM": with_ssim, "SIZE": SIZE, "WINDOW": WINDOW, "TWO_SIGMA2": 2 * SIGMA**2},
            **{"TAP_SUM": TAP_SUM, "C1": C1, "C2": C2},
        },
        num_warps=8,
    )
    return [launch], sums
