"""How a picture moves, in a few numbers: a coarse field of optical flow.

Each cell of a grid, and the moving pixels as a whole, get one displacement between two frames, by
least squares on brightness gradients over all three colours (Lucas and Kanade, 1981). It is rough
for large motions, but grows with them and keeps their sign, which is what a linear fit needs.
"""

from __future__ import annotations

import numpy as np
import torch

from vidwm.data.sampler import resize

SIZE, GRID, LOOK_GRID = 64, 8, 16  # pixels a side; cells a side for flow, and for appearance
DAMPING = 1e-2  # squared gradients below this count as nothing to see
MOVED = 0.03  # change of a colour in [0, 1] from which on a pixel moves


def small(frames: np.ndarray) -> np.ndarray:
    """(T, 3, H, W) uint8 -> (T, 3, SIZE, SIZE) float32 in [0, 1]."""
    scaled = resize(torch.from_numpy(frames), (SIZE, SIZE)).float() / 255
    result: np.ndarray = scaled.numpy()
    return result


def flow(images: np.ndarray) -> np.ndarray:
    """(T, 3, H, W) in [0, 1] -> (T - 1, 2 * (GRID * GRID + 1)): displacements in pixels."""
    smooth = _blurred(images)
    dt = smooth[1:] - smooth[:-1]
    gy, gx = np.gradient((smooth[1:] + smooth[:-1]) / 2, axis=(2, 3))
    products = np.stack([gx * gx, gy * gy, gx * gy, gx * dt, gy * dt])
    moving = np.abs(dt).max(axis=1, keepdims=True) > MOVED
    whole = (products * moving).sum(axis=(2, 3, 4))[..., None]
    cells = _cells(products.sum(axis=2), GRID)
    xx, yy, xy, xt, yt = np.concatenate([cells, whole], axis=-1)
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy
    dx, dy = (xy * yt - yy * xt) / determinant, (xy * xt - xx * yt) / determinant
    return np.concatenate([dx, dy], axis=-1)


def appearance(images: np.ndarray) -> np.ndarray:
    """(T, 3, H, W) -> (T, LOOK_GRID * LOOK_GRID): brightness of coarse cells."""
    return _cells(images.mean(axis=1), LOOK_GRID)


def _blurred(images: np.ndarray) -> np.ndarray:
    """The mean of 3 x 3 pixels, so that gradients reach a pixel further."""
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    total = np.zeros_like(images)
    for y in range(3):
        for x in range(3):
            total += padded[:, :, y : y + height, x : x + width]
    return total / 9


def _cells(values: np.ndarray, grid: int) -> np.ndarray:
    """(..., H, W) -> (..., grid * grid): sums over square cells."""
    *front, height, width = values.shape
    parts = values.reshape(*front, grid, height // grid, grid, width // grid)
    summed: np.ndarray = parts.sum(axis=(-3, -1))
    return summed.reshape(*front, grid * grid)
