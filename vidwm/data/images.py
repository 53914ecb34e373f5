"""Pixels of an episode: encoded images decoded, arrays of numbers made uint8.

Pillow says what an image is and what is damaged. JPEGs, which are most of what is recorded, go
through simplejpeg first: libjpeg-turbo too, so the same values, in a third of the time.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import simplejpeg
from PIL import Image

from vidwm.errors import UserError

# Pillow knows many more, some of which start other programs or read other files.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def decode_images(
    encoded: Iterable[bytes | memoryview], *, source: str, first: int = 0
) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB; UserError names `source` and the frame if one is no image.

    In memory the channels come first. `first` is the number of the first frame in its episode, for
    these messages.
    """
    frames: list[np.ndarray] = []
    for index, data in enumerate(encoded, first):
        try:
            frame = _decode_intact_jpeg(data)
            frame = _decode(data) if frame is None else frame
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
    planes = np.empty((len(frames), 3, *frames[0].shape[:2]), np.uint8)
    for plane, frame in zip(planes, frames, strict=True):
        plane[:] = frame.transpose(2, 0, 1)
    view: np.ndarray = planes.transpose(0, 2, 3, 1)
    return view


def _decode(data: bytes | memoryview) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _decode_intact_jpeg(data: bytes | memoryview) -> np.ndarray | None:
    """What `_decode` gives, or None where it must judge: another format, colours, size, damage."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours == "YCbCr" and height * width <= (Image.MAX_IMAGE_PIXELS or 0):
            frame: np.ndarray = simplejpeg.decode_jpeg(data)
            return frame
    except ValueError:  # it stops at damage that libjpeg passes over
        pass
    return None


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
