"""Which library decodes a video: decided here alone.

The environment variable VIDWM_VIDEO says `auto` (the default), `av`, `torchcodec` or `decord`. All
give the same frames. `auto` takes PyAV, which comes with every codec LeRobot writes, AV1 included,
and is the fastest as used here (tools/bench_data.py); for what it has no decoder, torchcodec, then
decord, where they load and decode. What is asked for by name runs or is an error.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from vidwm.data.video_av import AvVideo
from vidwm.data.video_decord import DecordVideo, open_decord
from vidwm.data.video_errors import DecodingFailed, NoDecoder
from vidwm.data.video_torchcodec import TorchcodecVideo, open_torchcodec
from vidwm.errors import UserError, first_line

VARIABLE = "VIDWM_VIDEO"
CHOICES = ("auto", "av", "torchcodec", "decord")


class OpenVideo(Protocol):
    """A video file that a library holds open."""

    rate: float

    def read(self, start: int, count: int, rate: float) -> np.ndarray: ...

    def close(self) -> None: ...


OPENERS: dict[str, Callable[[Path], OpenVideo]] = {
    "av": AvVideo,
    "torchcodec": TorchcodecVideo,
    "decord": DecordVideo,
}
TRIALS: dict[str, Callable[[bytes], Any]] = {
    "torchcodec": lambda video: open_torchcodec(video)[0],
    "decord": lambda video: open_decord(io.BytesIO(video)),
}


def requested() -> str:
    """The value of VIDWM_VIDEO; UserError when it is not one of `CHOICES`."""
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise UserError(f"{VARIABLE} must be one of {', '.join(CHOICES)}; got {choice!r}.")
    return choice


def open_video(path: Path, backend: str) -> OpenVideo:
    """Open a file with one of `CHOICES`; UserError where that does not load, or not decode it."""
    if backend != "auto":
        reason = why_not(backend)
        if reason:
            raise UserError(
                f"{backend} does not decode videos on this machine ({reason}); install it, or set "
                f"{VARIABLE}=auto."
            )
        return OPENERS[backend](path)
    try:
        return AvVideo(path)
    except NoDecoder:
        for other in TRIALS:
            if not why_not(other):
                try:
                    return OPENERS[other](path)
                except NoDecoder:
                    continue
        raise


@cache
def why_not(backend: str) -> str:
    """Why a library decodes nothing on this machine, "" if it does: it is tried on a frame.

    Importing it says little: torchcodec does that without FFmpeg.
    """
    if backend not in TRIALS:
        return ""
    try:
        TRIALS[backend](_one_frame())
    except (ImportError, OSError, RuntimeError, DecodingFailed) as error:
        return first_line(error)
    return ""


def _one_frame() -> bytes:
    """A video of one small picture, in a codec that every FFmpeg has."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.height = stream.width = 64  # decord cannot copy smaller ones
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()
