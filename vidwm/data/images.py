"""Pixels of an episode: PNG or JPEG images decoded with Pillow, arrays of numbers made uint8."""

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
                frame = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
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


def to_uint8(images: np.ndarray, *, source: str, key: str) -> np.ndarray:
    """Integers 0..255 or floats 0..1 as uint8; UserError names `source` and `key` for others."""
    if images.dtype == np.uint8:
        return images
    is_float = images.dtype.kind == "f"
    highest = 1 if is_float else 255
    # Written so that NaN fails.
    if not (images.min() >= 0 and images.max() <= highest):
        raise UserError(
            f"{source}: {key!r} is {images.dtype} and reaches from {images.min()} to "
            f"{images.max()}; expected values from 0 to {highest}."
        )
    return np.round(images * 255).astype(np.uint8) if is_float else images.astype(np.uint8)
