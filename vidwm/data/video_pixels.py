"""Decoded pictures as RGB arrays, to the bit what swscale makes of them as packed rgb24.

For some formats and sizes swscale writes three planes about eight times as fast as packed pixels,
and planes are what the rest of the package wants. Where a picture of noise comes out the same both
ways, planes are taken; elsewhere (chroma is interpolated otherwise at odd sizes) packed pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import av
import numpy as np
from av.video.reformatter import VideoReformatter

# 8-bit ones: every byte of noise is a legal sample.
PLANAR_CANDIDATES = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
PLANES = (2, 0, 1)  # of gbrp, in the order red, green, blue
# Colours are converted in one thread: data workers share the processors. Older PyAV has no choice.
REFORMAT_OPTIONS = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


class RGBConverter:
    """Keeps what swscale sets up: that costs more than converting a picture."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def convert(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The picture as rgb24, or as gbrp where that is the same."""
        planar = planes_are_exact(frame.format.name, frame.width, frame.height)
        layout = "gbrp" if planar else "rgb24"
        return self._reformatter.reformat(frame, format=layout, **REFORMAT_OPTIONS)


def stack(pictures: Sequence[av.VideoFrame]) -> np.ndarray:
    """Converted pictures of one size as (T, H, W, 3) uint8, a view of (T, 3, H, W) in memory."""
    height, width = pictures[0].height, pictures[0].width
    frames = np.empty((len(pictures), 3, height, width), np.uint8)
    for frame, picture in zip(frames, pictures, strict=True):
        if picture.format.name == "gbrp":
            for channel, plane in zip(frame, PLANES, strict=True):
                channel[:] = _rows(picture, plane)[:, :width]
        else:
            rows = _rows(picture, 0)[:, : 3 * width]
            frame[:] = rows.reshape(height, width, 3).transpose(2, 0, 1)
    view: np.ndarray = frames.transpose(0, 2, 3, 1)
    return view


@cache
def planes_are_exact(pix_fmt: str, width: int, height: int) -> bool:
    """Whether swscale gives gbrp and rgb24 the same values, tried on a picture of noise."""
    if pix_fmt not in PLANAR_CANDIDATES:
        return False
    noise = av.VideoFrame(width, height, pix_fmt)
    generator = np.random.default_rng(0)
    for plane in noise.planes:
        plane.update(generator.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    packed, planar = (
        VideoReformatter().reformat(noise, format=layout) for layout in ("rgb24", "gbrp")
    )
    return bool((stack([packed]) == stack([planar])).all())


def _rows(picture: av.VideoFrame, plane: int) -> np.ndarray:
    """The bytes (H, line) of a plane; a line may end in padding."""
    buffer = picture.planes[plane]
    samples: np.ndarray = np.frombuffer(memoryview(buffer), np.uint8)
    return samples.reshape(-1, buffer.line_size)[: picture.height]
