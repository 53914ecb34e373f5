"""Read and write video files: the frames of a span, and nothing before or after it.

Frame i of a file is the one shown i / fps seconds after its first frame, found by its time stamp to
within half a frame, so a file that lost frames is an error and never a shift. Which library decodes
is video_backends.py's to say; which files stay open, video_files.py's.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from vidwm.data.video_backends import requested
from vidwm.data.video_errors import DecodingFailed
from vidwm.data.video_files import OPEN_FILES
from vidwm.errors import UserError


def read_frames(
    path: str | Path,
    start: int,
    count: int,
    *,
    fps: float | None = None,
    backend: str | None = None,
) -> np.ndarray:
    """Frames start .. start + count - 1 of a video, (count, H, W, 3) uint8 RGB.

    In memory the channels come first. `fps` is the rate that numbers the frames, the file's own by
    default; `backend` the library (`video_backends.CHOICES`), by default what VIDWM_VIDEO says.
    UserError names the file if it is missing, damaged, too short or unevenly timed.
    """
    if start < 0 or count < 1:
        raise ValueError(f"start must be >= 0 and count >= 1, got {start} and {count}")
    path = Path(path)
    try:
        return OPEN_FILES.read(path, backend or requested(), start, count, fps)
    except FileNotFoundError:
        raise UserError(
            f"Video {path} does not exist; copy the missing file into the dataset."
        ) from None
    except (av.FFmpegError, DecodingFailed, OSError, OverflowError) as error:
        raise UserError(
            f"Video {path} cannot be read at frames {start} to {start + count - 1} "
            f"({type(error).__name__}); the file is damaged or incomplete, copy it again."
        ) from error


def write_video(
    path: str | Path, frames: np.ndarray, fps: float, *, pix_fmt: str = "yuv444p", crf: int = 10
) -> None:
    """Write frames (T, H, W, 3) uint8 RGB as H.264.

    `crf` is x264's quality: 0 is lossless but for colour, 51 the worst. Use pix_fmt="yuv420p" (even
    H and W) for players that know nothing else.
    """
    _check_frames(frames)
    with av.open(str(path), "w") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_gif(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Write frames (T, H, W, 3) uint8 RGB as an endless GIF; its clock ticks in 10 ms."""
    _check_frames(frames)
    images = [Image.fromarray(frame).quantize(colors=256) for frame in frames]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0
    )


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
