"""Predictions beside the truth: as a video of panels in step, or as one picture.

    video      context | truth | prediction .. | difference
    picture    a row of true frames, then a row per prediction, the context at the left of each

The context panel loops through nothing: it holds its last frame while the others play. The
difference is the absolute error of the last prediction, brightened.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP = 2
TITLE_HEIGHT = 16
MIN_PANEL_WIDTH = 112
DIFFERENCE_GAIN = 3.0


def strip(context: Tensor, truth: Tensor, *predictions: Tensor, scale: int = 2) -> Tensor:
    """Frames in [0, 1]: context (c, 3, H, W), truth and every prediction (h, 3, H, W).

    -> video (c + h, 3, H', W') uint8. While the context plays, the other panels show it too and
    the difference is black; afterwards the context panel holds its last frame. `scale` enlarges
    pixels.
    """
    c, h = len(context), len(truth)
    panels = [
        torch.cat([context, context[-1:].expand(h, -1, -1, -1)]),
        *(torch.cat([context, frames]) for frames in (truth, *predictions)),
        torch.cat([torch.zeros_like(context), difference(truth, predictions[-1])]),
    ]
    gap = torch.ones(c + h, 3, context.shape[-2], GAP, device=context.device)
    row = torch.cat([part for panel in panels for part in (panel, gap)][:-1], dim=-1)
    return _enlarged(row, scale)


def titled_strip(
    context: Tensor, truth: Tensor, predictions: Sequence[Tensor], names: Sequence[str]
) -> np.ndarray:
    """A strip with a title above each panel, as (c + h, H', W', 3) uint8 for a video file.

    names: one per prediction. Small frames are enlarged until the titles fit; H' and W' are even.
    """
    width = context.shape[-1]
    scale = panel_scale(width)
    video = strip(context, truth, *predictions, scale=scale).permute(0, 2, 3, 1).cpu().numpy()
    video = np.pad(video, [(0, 0), *((0, size % 2) for size in video.shape[1:3]), (0, 0)])
    titles = Image.new("RGB", (video.shape[2], TITLE_HEIGHT), "white")
    pen, font = ImageDraw.Draw(titles), ImageFont.load_default()
    for index, name in enumerate(("context", "truth", *names, f"difference x{DIFFERENCE_GAIN:g}")):
        middle = (index * (width + GAP) + width / 2) * scale
        left = middle - pen.textlength(name, font=font) / 2
        pen.text((left, 2), name, fill="black", font=font)
    bar = np.broadcast_to(np.asarray(titles), (len(video), *np.asarray(titles).shape))
    return np.concatenate([bar, video], axis=1)


def filmstrip(context: Tensor, truth: Tensor, predictions: list[Tensor], scale: int = 2) -> Tensor:
    """One picture: a row of true frames, then a row per prediction, context at the left of each.

    -> (3, H', W') uint8; context (c, 3, H, W), truth and every prediction (h, 3, H, W) in [0, 1].
    """
    height, width = context.shape[-2:]
    beside = torch.ones(3, height, GAP, device=context.device)
    rows = [
        torch.cat([*context, beside, *frames.to(context)], dim=-1)
        for frames in (truth, *predictions)
    ]
    below = torch.ones(3, GAP, (len(context) + len(truth)) * width + GAP, device=context.device)
    picture = torch.cat([part for row in rows for part in (row, below)][:-1], dim=-2)
    return _enlarged(picture, scale)


def panel_scale(width: int) -> int:
    """How often a pixel is repeated so that a panel of `width` pixels can be looked at."""
    return -(-MIN_PANEL_WIDTH // width)


def difference(truth: Tensor, prediction: Tensor) -> Tensor:
    """Absolute error, brightened threefold so that small errors can be seen."""
    return ((truth - prediction).abs() * DIFFERENCE_GAIN).clamp(0, 1)


def _enlarged(picture: Tensor, scale: int) -> Tensor:
    picture = picture.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)
    return (picture.clamp(0, 1) * 255).round().byte()
