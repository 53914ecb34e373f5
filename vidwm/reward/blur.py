"""Anti-aliased subsampling: a binomial blur of stride 2 over reflected borders (arXiv 1904.11486).

`Blur` is the definition. `BlurredConv` computes a convolution followed by `Blur` in one go: two
linear maps are one, so the 11x11 convolution of stride 1 that opens ST-LPIPS's AlexNet and its blur
become a 13x13 convolution of stride 2, with a third of the multiplications. Only the last row and
column differ, where the blur meets the reflected border; they have their own kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BORDER = 2


class Blur(nn.Module):
    """Halve the resolution with the 3x3 binomial filter; borders are reflected by two pixels."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(row, row).expand(channels, 1, 3, 3).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        padded = F.pad(maps, (BORDER,) * 4, mode="reflect")
        return F.conv2d(padded, self.kernel, stride=2, groups=maps.shape[1])


class BlurredConv(nn.Module):
    """`Blur` after `conv` (odd square kernel, stride 1), as one convolution; equal up to rounding.

    Along one axis let c[0..n-1] be the output of `conv`. The blur gives, at the first place, what
    it gives at the second (reflection of a symmetric filter); at the last, the same as at the one
    before when n is odd, and (c[n-2] + c[n-1]) / 2 when n is even. Between, place i blurs
    c[2i-2], c[2i-1], c[2i].

    Pixels are regrouped 2x2 into channels, which turns stride 2 into stride 1: the gradient with
    respect to the frames is then more than twice as fast on a CPU.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        size = conv.kernel_size[0]
        if conv.kernel_size != (size, size) or size % 2 == 0 or conv.stride != (1, 1):
            raise ValueError(
                f"expected a convolution of odd square kernel and stride 1, got {conv}"
            )
        self.padding = int(conv.padding[0])
        self.edge_size = (size + 1) // 2
        self.bias = conv.bias
        # A trailing zero makes the kernel even, as the 2x2 regrouping needs.
        planes = conv.weight.detach().flatten(0, 1)[:, None]
        taps = {
            "inner": planes.new_tensor([0.25, 0.5, 0.25, 0]),
            "edge": planes.new_tensor([0.5, 0.5]),
        }
        for row_name, rows in taps.items():
            for column_name, columns in taps.items():
                kernel = F.conv_transpose2d(planes, torch.outer(rows, columns)[None, None])
                kernel = kernel[:, 0].unflatten(0, conv.weight.shape[:2])
                name = f"{row_name}_{column_name}"
                self.register_buffer(name, F.pixel_unshuffle(kernel, 2), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        height, width = frames.shape[-2:]
        near, even = self.padding, (height % 2 == 0, width % 2 == 0)
        padded = F.pad(frames, (near, near + width % 2, near, near + height % 2))
        pixels = F.pixel_unshuffle(padded, 2)
        inner = self._rows(pixels, "inner", even[1])
        last = inner[:, :, -1:]
        if even[0]:
            last = self._rows(pixels[:, :, -self.edge_size :], "edge", even[1])
        return torch.cat([inner[:, :, :1], inner, last], dim=2)

    def _rows(self, pixels: Tensor, kind: str, even_width: bool) -> Tensor:
        inner = F.conv2d(pixels, self.get_buffer(f"{kind}_inner"), self.bias)
        last = inner[..., -1:]
        if even_width:
            edge = pixels[..., -self.edge_size :]
            last = F.conv2d(edge, self.get_buffer(f"{kind}_edge"), self.bias)
        return torch.cat([inner[..., :1], inner, last], dim=3)
