"""Double a map's resolution and convolve by 3x3, in one convolution of 2x2.

After nearest-neighbour doubling, the 3x3 window of a place covers only 2x2 different values, and
which of its taps fall together depends on nothing but whether row and column are even or odd. So
the even and odd places are 2x2 convolutions of the map as it was, with taps added up: 4
multiplications where there were 9.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def doubled_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (M, C, h, w), weight (K, C, 3, 3), bias (K,) -> (M, K, 2h, 2w), channels-last.

    Equal, up to rounding, to conv2d(interpolate(x, scale_factor=2), weight, bias, padding=1).
    """
    K, (h, w) = len(weight), x.shape[-2:]
    kernels = _taps_together(_taps_together(weight, 2), 4)  # (column, row, K, C, 2, 2)
    kernels = kernels.transpose(0, 1).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    maps = F.conv2d(x, kernels, None if bias is None else bias.repeat(4), padding=1)
    # (M, h + 1, w + 1, row, column, K): even places end one before odd ones.
    maps = maps.movedim(1, -1).unflatten(-1, (2, 2, K))
    rows = [
        torch.cat([maps[:, y : y + h, x : x + w, y, x] for x in range(2)], dim=-1) for y in range(2)
    ]
    return torch.stack(rows, dim=2).view(len(x), 2 * h, 2 * w, K).movedim(-1, 1)


def _taps_together(weight: Tensor, dim: int) -> Tensor:
    """Taps of even and of odd places, as a new first dimension, of 3 along `dim`."""
    first, middle, last = weight.unbind(dim)
    even = torch.stack([first, middle + last], dim=dim)
    odd = torch.stack([first + middle, last], dim=dim)
    return torch.stack([even, odd])


class DoublingConv(nn.Conv2d):
    """A 3x3 convolution of the map at twice its resolution."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return doubled_conv(x, self.weight, self.bias)
