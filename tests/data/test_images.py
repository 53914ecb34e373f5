"""Encoded images: the fast way gives what Pillow gives, of whole and of damaged ones."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from vidwm.data import images
from vidwm.data.images import decode_images
from vidwm.errors import UserError

Moving = Callable[..., np.ndarray]


def encode(frame: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(64, 96), (65, 33), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_is_what_pillow_makes_of_it(
    size: tuple[int, int], mode: str, progressive: bool, subsampling: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    data = encode(noise, mode, progressive=progressive, subsampling=subsampling)
    assert (images._decode_intact_jpeg(data) is not None) == (mode == "RGB")
    (frame,) = decode_images([memoryview(data)], source="a")
    assert (frame == images._decode(data)).all()


def test_a_damaged_jpeg_is_what_pillow_makes_of_it(moving: Moving) -> None:
    whole = encode(moving(1, 48, 64)[0])
    generator = np.random.default_rng(0)
    judged = 0
    for _ in range(200):
        data = bytearray(whole)
        data[generator.integers(len(data))] ^= 1 << generator.integers(8)
        judged += images._decode_intact_jpeg(bytes(data)) is None
        try:
            expected = images._decode(bytes(data))
        except (OSError, ValueError, SyntaxError):
            with pytest.raises(UserError, match="a: the image of frame 0 cannot be decoded"):
                decode_images([bytes(data)], source="a")
        else:
            assert (decode_images([bytes(data)], source="a")[0] == expected).all()
    assert judged > 20
    with pytest.raises(UserError, match="frame 5 cannot be decoded"):
        decode_images([whole[: len(whole) // 2]], source="a", first=5)


def test_a_jpeg_bomb_is_left_to_pillow(moving: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="DecompressionBombError"):
        decode_images([encode(moving(1)[0])], source="a")
