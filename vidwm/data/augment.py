"""Augmentation of clips: a crop and a change of colours, drawn once for all frames of a clip.

So nothing moves or flickers that did not before, and what the robot did still explains what is
seen. Draws depend on the seed alone: the same seed gives the same frames, in every run.
(torchvision's functions do the same to one colour at a time; importing it costs every run and every
worker process 170 MB, so it is left to the test.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidwm.data.sampler import resize
from vidwm.data_config import AugmentOptions

FRAMES_AT_A_TIME = 64  # bounds the float copies of a whole episode


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
    if change == Change():
        return frames
    H, W = frames.shape[-2:]
    h, w = max(round(change.side * H), 1), max(round(change.side * W), 1)
    top, left = round(change.top * (H - h)), round(change.left * (W - w))
    cropped = resize(frames[..., top : top + h, left : left + w], (H, W))
    parts = cropped.split(FRAMES_AT_A_TIME)
    total = sum(float(_grey(_lit(part, change)).sum(dtype=torch.float64)) for part in parts)
    mean = total / (len(frames) * H * W)  # of the clip: that of each frame would flicker
    return torch.cat([_coloured(_lit(part, change), mean, change) for part in parts])


def _lit(frames: Tensor, change: Change) -> Tensor:
    return (change.brightness * frames.float()).clamp(0, 255)


def _coloured(colours: Tensor, mean: float, change: Change) -> Tensor:
    """Contrast about a mean grey, saturation and hue of colours (T, 3, H, W); uint8."""
    colours = (mean + change.contrast * (colours - mean)).clamp(0, 255)
    grey = _grey(colours)
    colours = (grey + change.saturation * (colours - grey)).clamp(0, 255)
    if change.hue:
        colours = _turned(colours, change.hue)
    return colours.round().byte()


def _grey(colours: Tensor) -> Tensor:
    """Luma (T, 1, H, W) of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=colours.device).view(3, 1, 1)
    return (colours * weights).sum(dim=1, keepdim=True)


def _turned(colours: Tensor, hue: float) -> Tensor:
    """Colours (T, 3, H, W) with their hue moved by so many turns; value and saturation stay."""
    red, green, blue = colours.unbind(dim=1)
    value, largest = colours.max(dim=1)
    chroma = value - colours.amin(dim=1)
    scale = 1 / chroma.clamp(min=1e-6)
    sixths = torch.where(largest == 1, (blue - red) * scale + 2, (green - blue) * scale)
    sixths = torch.where(largest == 2, (red - green) * scale + 4, sixths) + 6 * hue
    channels = torch.tensor([5.0, 3.0, 1.0], device=colours.device).view(3, 1, 1)
    away = (channels + sixths[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(away, 4 - away).clamp(0, 1)


def augment(frames: Tensor, options: AugmentOptions, seed: int) -> Tensor:
    """Clips (B, T, 3, H, W) uint8, each changed by a draw of its own; untouched where all is off.

    Clip i of a seed always meets the same change, whatever its frames.
    """
    if not options.augments:
        return frames
    generators = [np.random.default_rng([seed, i]) for i in range(len(frames))]
    changes = [draw_change(options, generator) for generator in generators]
    return torch.stack([changed(clip, c) for clip, c in zip(frames, changes, strict=True)])
