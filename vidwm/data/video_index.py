"""Which pictures of a video file are the frames of a span, for decoders that count pictures.

Frame i is the picture shown i / fps seconds after the first, to within half a frame. The index is
read from the packets, whose time stamps need no decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from vidwm.data.video_errors import NoDecoder, missing_frame, repeated_frame


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """`seconds` (n,) since the first picture, ascending; `rate` in frames per second, 0 if unknown.

    `codec` and `pix_fmt` are "" where FFmpeg has no decoder. `even`: both sides are. `open_groups`:
    decoding from some key frame does not give every picture that is stored after it.
    """

    path: Path
    seconds: np.ndarray
    rate: float
    codec: str
    pix_fmt: str
    even: bool
    open_groups: bool

    @property
    def plain_colours(self) -> bool:
        """Whether every library makes the same RGB of it: 8 bits, no chroma to interpolate."""
        return self.pix_fmt == "yuv444p" or (self.pix_fmt in ("yuv420p", "yuvj420p") and self.even)

    def pictures(self, start: int, count: int, rate: float) -> list[int]:
        """The places among all pictures of frames start .. start + count - 1 at `rate`."""
        numbers = np.rint(self.seconds * rate).astype(np.int64)
        begin, end = np.searchsorted(numbers, (start, start + count))
        found = numbers[begin:end]
        repeated = found[1:][found[1:] == found[:-1]]
        if len(repeated):
            raise repeated_frame(self.path, int(repeated[0]), rate)
        if len(found) < count:
            missing = next(i for i, n in enumerate([*found, -1], start) if n != i)
            raise missing_frame(self.path, missing, start, count, rate)
        return list(range(int(begin), int(end)))

    def check_count(self, library: str, pictures: int) -> None:
        """NoDecoder if a library counts other pictures than these."""
        if pictures != len(self.seconds):
            raise NoDecoder(
                f"Video {self.path} has {len(self.seconds)} frames, but {pictures} for {library}; "
                f"use PyAV."
            )


def index_video(path: Path) -> VideoIndex:
    """Read every packet's time stamp; NoDecoder if the file holds no video, or less than it says.

    decord sets memory aside for as many frames as the header states, and ends the process if there
    is none (it lets std::bad_alloc through).
    """
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise NoDecoder(f"Video {path} holds no video that can be decoded; re-encode it.")
        codec = stream.codec_context
        h264 = codec is not None and codec.name == "h264"
        stamps, key, open_groups, packets = list[int](), 0, False, 0
        for packet in container.demux(stream):
            packets += packet.size > 0
            if packet.pts is None or packet.is_discard:
                continue
            if packet.is_keyframe:
                key = packet.pts
                open_groups |= h264 and not _has_idr(bytes(packet))
            open_groups |= packet.pts < key
            stamps.append(packet.pts)
        if stream.frames > packets:
            raise NoDecoder(
                f"Video {path} states {stream.frames} frames and holds {packets}; the file is "
                f"damaged or incomplete, copy it again, or use PyAV."
            )
        first = stream.start_time if stream.start_time is not None else min(stamps, default=0)
        ticks = np.sort(np.array(stamps, np.int64)) - first
        return VideoIndex(
            path=path,
            seconds=ticks * float(stream.time_base or 1),
            rate=float(stream.average_rate or 0),
            codec=codec.name if codec else "",
            pix_fmt=codec.pix_fmt or "" if codec else "",
            even=bool(codec and codec.width % 2 == codec.height % 2 == 0),
            open_groups=open_groups,
        )


def _has_idr(data: bytes) -> bool:
    """Whether an H.264 key frame forgets what was before it (NAL unit 5), as stored in mp4.

    Others are where a gradual refresh begins, or a group whose first pictures look back.
    """
    offset = 0
    while offset + 4 < len(data):
        if data[offset + 4] & 31 == 5:
            return True
        offset += 4 + int.from_bytes(data[offset : offset + 4], "big")
    return False
