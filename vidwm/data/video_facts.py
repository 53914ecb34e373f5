"""How many frames a video file has and how fast they come, from its header, without decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av

from vidwm.errors import UserError


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """`frames` counts them, `fps` is their average rate per second."""

    frames: int
    fps: float


def video_facts(path: Path) -> VideoFacts:
    """UserError names the file if it is missing, no video, or states no rate.

    Where the header does not count the frames, its packets are; a frame takes a byte at the least.
    """
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:
                raise UserError(f"Video {path} holds no video that can be decoded; re-encode it.")
            fps = float(stream.average_rate or 0)
            if not 0 < fps < float("inf"):
                raise UserError(f"Video {path} states no frame rate; re-encode it with one.")
            frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    except FileNotFoundError:
        raise UserError(
            f"Video {path} does not exist; copy the missing file into the dataset."
        ) from None
    except (av.FFmpegError, OSError, OverflowError, ZeroDivisionError) as error:
        raise UserError(
            f"Video {path} cannot be opened ({type(error).__name__}); the file is damaged or "
            f"incomplete, copy it again."
        ) from error
    if not 0 < frames <= path.stat().st_size:
        raise UserError(
            f"Video {path} says it has {frames} frames in {path.stat().st_size} bytes; the file is "
            f"empty or damaged, copy it again."
        )
    return VideoFacts(frames, fps)
