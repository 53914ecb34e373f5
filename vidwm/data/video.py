"""Read and write video files: the frames of a span, and nothing before or after it.

Frame i of a file is the one shown i / fps seconds after its first frame, found by its time stamp to
within half a frame, so a file that lost frames is an error and never a shift. PyAV decodes all that
LeRobot writes, AV1 included. decord, where it is installed, is up to twice as fast on small 8-bit
H.264 and HEVC, but after a seek into an open group of pictures it returns wrong frames (every HEVC
file x265 writes by default), so it only reads spans that begin a file. Both give the same frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from vidwm.errors import UserError

try:
    import decord
except (ImportError, OSError):  # no wheel for this machine, or one whose libraries do not load
    decord = None

DECORD_CODECS = ("h264", "hevc")
DECORD_PIX_FMTS = ("yuv420p", "yuv444p")  # 10-bit is rounded otherwise than by PyAV
# Colours are converted in one thread: data workers share the processors. Older PyAV has no choice.
REFORMAT_OPTIONS = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
SEEK_BACK = 64  # frames; a second try where the first frames after a key frame cannot be decoded


def read_frames(
    path: str | Path, start: int, count: int, *, fps: float | None = None
) -> np.ndarray:
    """Frames start .. start + count - 1 of a video, (count, H, W, 3) uint8 RGB.

    `fps` is the rate that numbers the frames, the file's own by default. UserError names the file
    if it is missing, damaged, too short or unevenly timed.
    """
    if start < 0 or count < 1:
        raise ValueError(f"start must be >= 0 and count >= 1, got {start} and {count}")
    path = Path(path)
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:  # none is of an unknown codec
                raise UserError(f"Video {path} holds no video that can be decoded; re-encode it.")
            rate = float(fps or stream.average_rate or 0)
            if not rate > 0:
                raise UserError(f"Video {path} states no frame rate; re-encode it with one.")
            codec = stream.codec_context
            if start == 0 and codec.name in DECORD_CODECS and codec.pix_fmt in DECORD_PIX_FMTS:
                frames = _read_with_decord(path, count, rate)
                if frames is not None:
                    return frames
            return _read_with_av(container, stream, path, start, count, rate)
    except FileNotFoundError:
        raise UserError(
            f"Video {path} does not exist; copy the missing file into the dataset."
        ) from None
    except (av.FFmpegError, OSError, OverflowError) as error:
        raise UserError(
            f"Video {path} cannot be read at frames {start} to {start + count - 1} "
            f"({type(error).__name__}); the file is damaged or incomplete, copy it again."
        ) from error


def _read_with_decord(path: Path, count: int, rate: float) -> np.ndarray | None:
    """The first `count` frames, or None where decord is absent, fails or numbers them otherwise."""
    if decord is None:
        return None
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if len(reader) < count:
            return None
        times = reader.get_frame_timestamp(range(count))[:, 0]
        if np.abs(times * rate - np.arange(count)).max() >= 0.5:
            return None
        frames: np.ndarray = reader.get_batch(range(count)).asnumpy()
        return frames
    except (decord.DECORDError, RuntimeError):
        return None


def _read_with_av(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    path: Path,
    start: int,
    count: int,
    rate: float,
) -> np.ndarray:
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    first, time_base = stream.start_time or 0, stream.time_base or Fraction(1)
    frames: dict[int, np.ndarray] = {}
    for seek_to in (start, max(start - SEEK_BACK, 0), 0):
        # Half a frame late: a time stamp rounded down would seek to the key frame before.
        container.seek(first + int((seek_to + 0.5) / rate / time_base), stream=stream)
        places = _numbered(container.decode(stream), rate * float(time_base), first)
        frames = _collect(places, path, start, count, rate)
        if start in frames:
            break
    missing = next((i for i in range(start, start + count) if i not in frames), None)
    if missing is not None:
        raise UserError(
            f"Video {path} has no frame {missing} (at {missing / rate:.3f} s, {rate:g} frames per "
            f"second), but the episode needs frames {start} to {start + count - 1}; the file is "
            f"incomplete or unevenly timed."
        )
    return np.stack([frames[i] for i in range(start, start + count)])


def _numbered(
    decoded: Iterator[av.VideoFrame], frames_per_tick: float, first: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames with their numbers, by time stamp, in the order they are shown."""
    for frame in decoded:
        if frame.pts is not None:
            yield round((frame.pts - first) * frames_per_tick), frame


def _collect(
    numbered: Iterator[tuple[int, av.VideoFrame]], path: Path, start: int, count: int, rate: float
) -> dict[int, np.ndarray]:
    """Decode up to the end of the span; frame number -> (H, W, 3)."""
    reformatter = VideoReformatter()  # one for all frames: setting one up costs more than a frame
    frames: dict[int, np.ndarray] = {}
    for index, frame in numbered:
        if index >= start + count:
            break
        if index < start:
            continue
        if index in frames:
            raise UserError(
                f"Video {path} shows two frames as frame {index} at {rate:g} frames per second; "
                f"its rate is another one, or uneven: re-encode it at {rate:g}."
            )
        image = reformatter.reformat(frame, format="rgb24", **REFORMAT_OPTIONS).to_ndarray()
        if frames and image.shape != next(iter(frames.values())).shape:
            raise UserError(f"Video {path} changes its image size at frame {index}; re-encode it.")
        frames[index] = image
        if len(frames) == count:
            break
    return frames


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
