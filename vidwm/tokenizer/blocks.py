"""Convolutional encoder and decoder: pixels to a small latent grid and back.

Frames are folded by `patch` pixels, then every level halves the grid. Convolutions at full
resolution cost most and see least, so there are none: the first and last layers work on patches.

The encoder is local on purpose: blocks work on single pixels of their level, only the first layer
and the strided ones look sideways, and norms take their statistics per pixel. A latent therefore
depends on its own cell and about one cell around it, so where nothing moves the tokens stay the
same from frame to frame, and a transformer has only to predict what does move. The decoder, which
has no such duty, sees the whole grid. Both know where they are, by a learned map added to the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vidwm.gradient_checkpointing import CheckpointedBlock
from vidwm.tokenizer.doubling import DoublingConv


class PixelNorm(nn.Module):
    """x / rms(x) * weight over the channels of every pixel of (B, width, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        return F.rms_norm(x.movedim(1, -1), weight.shape, weight, 1e-6).movedim(-1, 1)


class GridBias(nn.Module):
    """Adds a learned map (width, h, w): what is usual at each place of the grid."""

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width, *grid))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.to(x.dtype)


class PointwiseBlock(CheckpointedBlock):
    """A two-layer network on every pixel of its own, around a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = PixelNorm(width)
        self.up = nn.Conv2d(width, 2 * width, 1)
        self.down = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.silu(self.up(self.norm(x))))


class ResidualBlock(CheckpointedBlock):
    """Two normalised 3x3 convolutions around a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = PixelNorm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = PixelNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class AttentionBlock(CheckpointedBlock):
    """Single-head self-attention over the grid, so that far places can agree."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = PixelNorm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (n d) h w -> n b 1 (h w) d", n=3)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(mixed, "b 1 (h w) d -> b d h w", h=x.shape[-2]))


class Encoder(nn.Module):
    """Frames (B, 3, H, W) -> latents (B, code_dim, h, w), h = H / (patch * 2^(levels-1))."""

    def __init__(
        self,
        patch: int,
        widths: Sequence[int],
        blocks: int,
        code_dim: int,
        grid: tuple[int, int],
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(patch),
            nn.Conv2d(3 * patch * patch, widths[0], 3, padding=1),
        ]
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.Conv2d(widths[level - 1], width, 4, stride=2, padding=1))
            if level == len(widths) - 1:
                layers.append(GridBias(width, grid))
            layers.extend(PointwiseBlock(width) for _ in range(blocks))
        layers += [PixelNorm(widths[-1]), nn.Conv2d(widths[-1], code_dim, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(frames)


class Decoder(nn.Module):
    """Codes (B, code_dim, h, w) -> frames (B, 3, H, W), unclamped."""

    def __init__(
        self,
        patch: int,
        widths: Sequence[int],
        blocks: int,
        code_dim: int,
        grid: tuple[int, int],
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(code_dim, widths[-1], 3, padding=1),
            GridBias(widths[-1], grid),
            ResidualBlock(widths[-1]),
            AttentionBlock(widths[-1]),
        ]
        for level in reversed(range(len(widths))):
            layers.extend(ResidualBlock(widths[level]) for _ in range(blocks))
            if level:
                # The identity stands where the map once was doubled: weights keep their names.
                layers += [nn.Identity(), DoublingConv(widths[level], widths[level - 1])]
        layers += [
            PixelNorm(widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], 3 * patch * patch, 3, padding=1),
            nn.PixelShuffle(patch),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(codes)
