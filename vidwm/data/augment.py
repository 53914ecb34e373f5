"""Augmentation of clips: a crop and a change of colours, drawn once for all frames of a clip.

So nothing moves or flickers that did not before, and what the robot did still explains what is
seen. Draws depend on the seed alone: the same seed gives the same frames, in every run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vidwm.data_config import AugmentOptions


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is done to a clip: the side kept and the place of the crop, and factors of colour.

    side in (0, 1]; top and left in [0, 1] of the room there is; a factor of 1 and a hue of 0, in
    turns of the colour circle, change nothing.
    """

    side: float = 1.0
    top: float = 0.0
    left: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


def draw_change(options: AugmentOptions, generator: np.random.Generator) -> Change:
    """A change within the bounds of the options; every bound takes its own number."""
    side, top, left, *colours = generator.random(7)
    brightness, contrast, saturation, hue = (2 * u - 1 for u in colours)  # in [-1, 1)
    return Change(
        side=options.crop + (1 - options.crop) * side,
        top=top,
        left=left,
        brightness=1 + options.brightness * brightness,
        contrast=1 + options.contrast * contrast,
        saturation=1 + options.saturation * saturation,
        hue=options.hue * hue,
    )


def changed(frames: Tensor, change: Change) -> Tensor:
    """Frames (T, 3, H, W) uint8 -> the same shape and type; cropped parts are scaled up again."""
    H, W = frames.shape[-2:]
    h, w = max(round(change.side * H), 1), max(round(change.side * W), 1)
    if (h, w) != (H, W):
        top, left = round(change.top * (H - h)), round(change.left * (W - w))
        frames = F.resized_crop(frames, top, left, h, w, [H, W], antialias=True)
    if change.brightness != 1:
        frames = F.adjust_brightness(frames, change.brightness)
    if change.contrast != 1:  # about the mean of the clip: that of each frame would flicker
        mean = F.rgb_to_grayscale(frames).float().mean()
        frames = (mean + change.contrast * (frames.float() - mean)).round().clamp(0, 255).byte()
    if change.saturation != 1:
        frames = F.adjust_saturation(frames, change.saturation)
    if change.hue:
        frames = F.adjust_hue(frames, change.hue)
    return frames


def augment(frames: Tensor, options: AugmentOptions, seed: int) -> Tensor:
    """Clips (B, T, 3, H, W) uint8, each changed by a draw of its own; untouched where all is off.

    Clip i of a seed always meets the same change, whatever its frames.
    """
    if not options.augments:
        return frames
    generators = [np.random.default_rng([seed, i]) for i in range(len(frames))]
    changes = [draw_change(options, generator) for generator in generators]
    return torch.stack([changed(clip, c) for clip, c in zip(frames, changes, strict=True)])
