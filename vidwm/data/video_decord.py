"""Frames of an open video by decord, where it can be trusted.

It decodes H.264 and HEVC but not AV1, rounds 10-bit colours otherwise than the others, and after a
seek into an open group of pictures (every HEVC file x265 writes by default) returns wrong frames:
files in which that can happen are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vidwm.data.video_errors import DecodingFailed, NoDecoder
from vidwm.data.video_index import index_video
from vidwm.errors import first_line

FAULTS = 1e-9  # the share of frames that may be repeats of others because they are damaged


def open_decord(source: Any) -> Any:
    """A reader of a path or file object; ImportError or OSError where decord does not load."""
    import decord

    try:
        reader = decord.VideoReader(source, num_threads=1, fault_tol=FAULTS)
        reader.get_batch([0])  # it opens some sizes of picture that it then cannot copy
        return reader
    except (decord.DECORDError, RuntimeError) as error:
        raise DecodingFailed(first_line(error)) from error


class DecordVideo:
    """A video file that decord holds open. `rate` is its own, in frames per second, or 0."""

    def __init__(self, path: Path) -> None:
        self._index = index = index_video(path)
        if index.open_groups or not index.plain_colours:
            what = "groups of pictures" if index.open_groups else "colours"
            raise NoDecoder(f"Video {path} has {what} that decord decodes otherwise; use PyAV.")
        try:
            self._reader = open_decord(str(path))
        except DecodingFailed as error:
            raise NoDecoder(f"Video {path} cannot be opened by decord ({error}).") from error
        index.check_count("decord", len(self._reader))
        self.rate = index.rate

    def read(self, start: int, count: int, rate: float) -> np.ndarray:
        """Frames start .. start + count - 1, (count, H, W, 3) uint8, numbered at `rate`."""
        import decord

        try:
            frames = self._reader.get_batch(self._index.pictures(start, count, rate))
            return np.asarray(frames.asnumpy())
        except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError) as error:
            raise DecodingFailed(first_line(error)) from error

    def close(self) -> None:
        """Close the file: the library does that with its last reference."""
        self._reader = None
