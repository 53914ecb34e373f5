"""Frames of an open video by PyAV: enter at a key frame, decode to the end of the span, no further.

What makes it fast: the file stays open, a span ahead in the same group of pictures is reached by
decoding on, and H.264 pictures that no other refers to are dropped undecoded on the way there.
Nothing else is kept from one span to the next, and none of it changes what is read.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from vidwm.data.video_errors import DecodingFailed, NoDecoder, missing_frame, repeated_frame
from vidwm.data.video_pixels import RGBConverter, stack
from vidwm.errors import UserError

# Of other codecs "not referred to" may mean: not by pictures of the same temporal layer.
SKIP_UNREFERENCED = ("h264",)
# With threads a decoder reads past the end of a span; of the others that costs more than it gains.
THREADED = ("libdav1d",)
MAX_THREADS = 8  # of an open file; there are up to 16
STEPS_BACK = 3  # key frames; the pictures after one cannot always be decoded from there


def processors() -> int:
    """How many of them a decoder may use: one where other processes decode or train beside it."""
    shared = multiprocessing.parent_process() is not None or os.environ.get("LOCAL_WORLD_SIZE")
    return 1 if shared else min(MAX_THREADS, os.cpu_count() or 1)


class AvVideo:
    """A video file that PyAV holds open. `rate` is its own, in frames per second, 0 if unknown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container = av.open(str(path), metadata_errors="ignore")
        stream = next(iter(self._container.streams.video), None)
        if stream is None or stream.codec_context is None:  # none is of an unknown codec
            raise NoDecoder(f"Video {path} holds no video that can be decoded; re-encode it.")
        self._stream, self._codec = stream, stream.codec_context
        stream.thread_type = "NONE"
        self._codec.thread_count = 1
        if self._codec.name in THREADED:
            self._codec.thread_count = processors()
        self.rate = float(stream.average_rate or 0)
        self._first, self._time_base = stream.start_time or 0, stream.time_base or Fraction(1)
        self._converter = RGBConverter()
        self._packets: Iterator[Any] = iter(())
        self._entered = self._first  # time stamp of the key frame that decoding began at
        self._fed: int | None = None  # decoding time of the last packet decoded
        self._shown: int | None = None  # time stamp of the last picture decoded, None at the end

    def read(self, start: int, count: int, rate: float) -> np.ndarray:
        """Frames start .. start + count - 1, (count, H, W, 3) uint8, numbered at `rate`."""
        onward = self._lies_ahead(start, rate)
        numbered = self._decode(start, rate) if onward else self._enter(start, rate)
        pictures: dict[int, av.VideoFrame] = {}
        for index, frame in numbered:
            if index >= start + count:
                break
            # The decoder filled in what it could not read, and later pictures refer to it. Leading
            # pictures of the group that was entered refer to one before it, so theirs is no damage.
            if frame.is_corrupt and (index >= start or (frame.pts or 0) >= self._entered):
                raise DecodingFailed(f"picture {index} is damaged")
            if index < start:
                continue
            if index in pictures:
                raise repeated_frame(self._path, index, rate)
            picture = self._converter.convert(frame)
            first = next(iter(pictures.values()), picture)
            if (picture.width, picture.height) != (first.width, first.height):
                raise UserError(
                    f"Video {self._path} changes its image size at frame {index}; re-encode it."
                )
            pictures[index] = picture
            if len(pictures) == count:
                break
        for index in range(start, start + count):
            if index not in pictures:
                raise missing_frame(self._path, index, start, count, rate)
        return stack([pictures[index] for index in range(start, start + count)])

    def close(self) -> None:
        """Close the file now: PyAV's objects refer to each other and would wait for a collector."""
        self._packets = iter(())
        self._container.close()

    def _number(self, pts: int, rate: float) -> int:
        return round((pts - self._first) * (rate * float(self._time_base)))

    def _lies_ahead(self, start: int, rate: float) -> bool:
        """Whether frame `start` comes next or later, and no key frame is nearer to it."""
        if self._fed is None or self._shown is None or self._number(self._shown, rate) >= start:
            return False
        index: Any = getattr(self._stream, "index_entries", None)  # older PyAV has none
        entry = index.search_timestamp(self._target(start, rate)) if index else -1
        return bool(entry >= 0 and index[entry].timestamp <= self._fed)

    def _target(self, start: int, rate: float) -> int:
        # Half a frame late: a time stamp rounded down would lead to the key frame before.
        return self._first + int((start + 0.5) / rate / self._time_base)

    def _enter(self, start: int, rate: float) -> Iterator[tuple[int, av.VideoFrame]]:
        """Pictures from a key frame on; the first is not after frame `start`, if any is not."""
        target = self._target(start, rate)
        for step in range(STEPS_BACK + 1):
            entry = self._seek(target)
            if entry.pts is None or self._number(entry.pts, rate) <= start:
                numbered = self._decode(start, rate)
                head = next(numbered, None)
                if head is not None and head[0] <= start:
                    return chain([head], numbered)
            one_back = entry.dts is not None and step + 1 < STEPS_BACK
            target = entry.dts - 1 if one_back else self._first
        return iter(())

    def _seek(self, target: int) -> Any:
        """The first packet from a key frame whose decoding time is not after `target`."""
        self._container.seek(target, stream=self._stream)
        packets = self._container.demux(self._stream)
        entry = next(packets)
        self._packets = chain([entry], packets)
        self._entered = self._first if entry.pts is None else entry.pts
        return entry

    def _decode(self, start: int, rate: float) -> Iterator[tuple[int, av.VideoFrame]]:
        """Pictures with their numbers, by time stamp, in the order they are shown."""
        for packet in self._packets:
            if packet.dts is not None:
                self._fed = packet.dts
            if self._codec.name in SKIP_UNREFERENCED:
                early = packet.pts is not None and self._number(packet.pts, rate) < start
                self._codec.skip_frame = "NONREF" if early else "DEFAULT"
            frames = [(f.pts, f) for f in self._codec.decode(packet) if f.pts is not None]
            if frames:
                self._shown = frames[-1][0]
            for pts, frame in frames:
                yield self._number(pts, rate), frame
        self._shown = None  # a decoder that was drained takes no more packets
