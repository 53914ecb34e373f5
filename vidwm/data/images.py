"""Decode the PNG or JPEG images of an episode, one a frame, with Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vidwm.errors import UserError


def decode_images(encoded: Sequence[bytes | memoryview], *, source: str) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB; UserError names `source` and the frame if one is no image."""
    frames: list[np.ndarray] = []
    for index, data in enumerate(encoded):
        try:
            frame = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
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
