"""A tokenizer for frames of another size: the same network, with its maps of places interpolated.

Convolutions know no size, so tokens keep their meaning and only their number changes. What is tied
to places is stretched over the new grid: the mean frame and the learned maps of a `FrameTokenizer`,
the positions of a `CompressiveTokenizer`. A `VQGANTokenizer` has nothing of the kind.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from vidwm.tokenizer.blocks import GridBias
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.conditioning import CrossAttention, resized_positions
from vidwm.tokenizer.frame import FrameTokenizer
from vidwm.tokenizer.open_tokenizer import Tokenizer
from vidwm.tokenizer.vqgan_frame import VQGANTokenizer


def resized(tokenizer: Tokenizer, height: int, width: int) -> Tokenizer:
    """A copy for frames of height x width pixels, in eval mode; UserError if its cells do not
    divide them.
    """
    new = _like(tokenizer, height, width)
    tensors = tokenizer.state_dict()
    blocks = dict(tokenizer.named_modules())
    for name, block in new.named_modules():
        if isinstance(block, GridBias):
            tensors[f"{name}.bias"] = _stretched(tensors[f"{name}.bias"], block.bias)
        elif isinstance(block, CrossAttention):
            old = blocks[name]
            assert isinstance(old, CrossAttention)
            for table in (f"{name}.q_pos_emb", f"{name}.kv_pos_emb"):
                tensors[table] = resized_positions(tensors[table], old.grid, block.grid)
    if isinstance(new, FrameTokenizer):
        tensors["mean"] = _stretched(tensors["mean"], new.mean)
    new.load_state_dict(tensors)
    return new.eval()


def _like(tokenizer: Tokenizer, height: int, width: int) -> Tokenizer:
    """An untrained one of the same shape but for its size."""
    if isinstance(tokenizer, FrameTokenizer):
        return FrameTokenizer(dataclasses.replace(tokenizer.config, height=height, width=width))
    if isinstance(tokenizer, CompressiveTokenizer):
        config = dataclasses.replace(tokenizer.config, height=height, width=width)
        return CompressiveTokenizer(config)
    return VQGANTokenizer(dataclasses.replace(tokenizer.config, height=height, width=width))


def _stretched(maps: Tensor, like: Tensor) -> Tensor:
    """maps (C, h, w) at the size of `like` (C, h', w')."""
    if maps.shape == like.shape:
        return maps
    return F.interpolate(maps[None], size=like.shape[1:], mode="bilinear", antialias=True)[0]
