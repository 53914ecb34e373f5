"""The convolutional encoder and decoder of VQ-GAN, as released RLVR-World tokenizers have them.

Residual blocks of GroupNorm, SiLU and 3x3 convolutions, with single-head attention in the middle
(Esser et al., arXiv 2012.09841, table 7). Parameters carry the names of the package `diffusers`,
so released files load as they are. Sources: RLVR-World, appendix A; `diffusers` 0.42, autoencoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from vidwm_kernels.group_norm_silu import group_norm_silu

from vidwm.gradient_checkpointing import CheckpointedBlock
from vidwm.tokenizer.doubling import DoublingConv

EPS = 1e-6


class GroupNormSiLU(nn.GroupNorm):
    """GroupNorm, then SiLU; channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        return group_norm_silu(x, self.weight, self.bias, self.num_groups, eps=self.eps)


class Resnet(CheckpointedBlock):
    """(M, width_in, h, w) -> (M, width, h, w): two normalised 3x3 convolutions, and what came."""

    def __init__(self, width_in: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNormSiLU(groups, width_in, EPS)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = GroupNormSiLU(groups, width, EPS)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if width_in != width:
            self.conv_shortcut = nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Attention(CheckpointedBlock):
    """Single-head self-attention over all places of a map."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        places = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]  # (M, 1, h * w, width)
        q, k, v = self.to_q(places), self.to_k(places), self.to_v(places)
        mixed = self.to_out[0](F.scaled_dot_product_attention(q, k, v))
        return x + mixed[:, 0].transpose(1, 2).unflatten(2, x.shape[-2:])


class Middle(nn.Module):
    """Two residual blocks, with attention between them unless it is left out."""

    def __init__(self, width: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(width, width, groups) for _ in range(2))
        if attention:
            self.attentions = nn.ModuleList([Attention(width, groups)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        if hasattr(self, "attentions"):
            x = self.attentions[0](x)
        return self.resnets[1](x)


class Halving(nn.Module):
    """A strided convolution, which looks past the far borders only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Doubling(nn.Module):
    """A convolution of the map at twice its resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = DoublingConv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Level(nn.Module):
    """Residual blocks of one resolution, then perhaps a change of it."""

    def __init__(
        self, width_in: int, width: int, blocks: int, groups: int, resampler: str | None
    ) -> None:
        super().__init__()
        widths = [width_in, *[width] * (blocks - 1)]
        self.resnets = nn.ModuleList(Resnet(before, width, groups) for before in widths)
        if resampler:
            self.add_module(resampler, nn.ModuleList([RESAMPLERS[resampler](width)]))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            for layer in cast(nn.ModuleList, part):
                x = layer(x)
        return x


DOWN, UP = "downsamplers", "upsamplers"
RESAMPLERS = {DOWN: Halving, UP: Doubling}


class VQGANEncoder(nn.Module):
    """Frames (M, 3, H, W) -> latents (M, latent, h, w), h = H / 2^(levels - 1)."""

    def __init__(
        self, widths: Sequence[int], blocks: int, groups: int, latent: int, attention: bool = True
    ) -> None:
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(widths[max(i - 1, 0)], width, blocks, groups, DOWN if i < last else None)
            for i, width in enumerate(widths)
        )
        self.mid_block = Middle(widths[-1], groups, attention)
        self.conv_norm_out = GroupNormSiLU(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], latent, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        return self.finish(self.levels(frames)[-1])

    def levels(self, frames: Tensor) -> list[Tensor]:
        """What every level gives."""
        x, found = self.conv_in(frames), []
        for level in self.down_blocks:
            x = level(x)
            found.append(x)
        return found

    def finish(self, x: Tensor) -> Tensor:
        """From the last level to latents."""
        return self.conv_out(self.conv_norm_out(self.mid_block(x)))


class VQGANDecoder(nn.Module):
    """Latents (M, latent, h, w) -> frames (M, 3, H, W), unclamped.

    inputs, outputs: widths of the levels, coarse to fine; doubling: of which levels the map is
    doubled at their end.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        doubling: Sequence[bool],
        blocks: int,
        groups: int,
        latent: int,
        attention: bool = True,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(latent, inputs[0], 3, padding=1)
        self.mid_block = Middle(inputs[0], groups, attention)
        self.up_blocks = nn.ModuleList(
            Level(before, width, blocks, groups, UP if doubles else None)
            for before, width, doubles in zip(inputs, outputs, doubling, strict=True)
        )
        self.conv_norm_out = GroupNormSiLU(groups, outputs[-1], EPS)
        self.conv_out = nn.Conv2d(outputs[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        return self.finish(self.middle(latents))

    def middle(self, latents: Tensor) -> Tensor:
        """Up to the first level."""
        return self.mid_block(self.conv_in(latents))

    def finish(self, x: Tensor) -> Tensor:
        """From the first level to frames."""
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(self.conv_norm_out(x))
