"""Frames of an open video by torchcodec, which decodes with the FFmpeg libraries of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vidwm.data.video_errors import DecodingFailed, NoDecoder
from vidwm.data.video_index import index_video
from vidwm.errors import first_line


def open_torchcodec(source: Any) -> Any:
    """A decoder of a path or bytes; ImportError, or DecodingFailed also where FFmpeg is absent."""
    from torchcodec.decoders import VideoDecoder

    try:
        # Exact: approximate seeks give wrong frames of open groups of pictures.
        return VideoDecoder(source, num_ffmpeg_threads=1, seek_mode="exact")
    except RuntimeError as error:
        raise DecodingFailed(first_line(error)) from error


class TorchcodecVideo:
    """A video file that torchcodec holds open. `rate` is its own, in frames per second, or 0."""

    def __init__(self, path: Path) -> None:
        self._index = index = index_video(path)
        groups = index.open_groups and index.codec == "h264"  # it does not wait out a refresh
        if groups or not index.plain_colours:
            what = "groups of pictures" if groups else "colours"
            raise NoDecoder(f"Video {path} has {what} that torchcodec decodes otherwise; use PyAV.")
        try:
            self._decoder = open_torchcodec(str(path))
        except DecodingFailed as error:
            raise NoDecoder(f"Video {path} cannot be opened by torchcodec ({error}).") from error
        index.check_count("torchcodec", len(self._decoder))
        self.rate = index.rate

    def read(self, start: int, count: int, rate: float) -> np.ndarray:
        """Frames start .. start + count - 1, (count, H, W, 3) uint8, numbered at `rate`."""
        places = self._index.pictures(start, count, rate)
        try:
            batch = self._decoder.get_frames_in_range(places[0], places[-1] + 1)
        except (RuntimeError, IndexError) as error:
            raise DecodingFailed(first_line(error)) from error
        frames: np.ndarray = batch.data.numpy()
        view: np.ndarray = frames.transpose(0, 2, 3, 1)
        return view

    def close(self) -> None:
        """Close the file: the library does that with its last reference."""
        self._decoder = None
