"""Decode the PNG or JPEG images of an episode, one a frame, with Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from vidwm.errors import UserError

# Pillow knows many more, some of which start other programs or read other files.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def decode_images(
    encoded: Iterable[bytes | memoryview], *, source: str, first: int = 0
) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB; UserError names `source` and the frame if one is no image.

    `first` is the number of the first frame in its episode, for these messages.
    """
    frames: list[np.ndarray] = []
    for index, data in enumerate(encoded, first):
        try:
            with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
                frame = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{source}: the image of frame {index} cannot be decoded "
                f"({type(error).__name__}); restore or remove the episode."
            ) from error
        if frames and frame.shape != frames[0].shape:
            raise UserError(
                f"{source}: the image of frame {index} has {frame.shape[:2]} pixels, the first "
                f"one {frames[0].shape[:2]}; all images of an episode must have one size."
            )
        frames.append(frame)
    return np.stack(frames)


def channels_first(frames: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) -> contiguous (T, 3, H, W)."""
    return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
