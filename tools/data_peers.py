"""Reading data by calling other libraries directly, as their documentation shows it.

Each peer is made for a path; what it returns reads a span of `count` frames from `start` on,
(count, H, W, 3) uint8. "kept": one reader stays open for all spans. decord and torchcodec decode in
one thread, as in a data worker; PyAV as it comes, which for AV1 is a thread a processor.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

Span = Callable[[int, int], np.ndarray]


def decord_kept(path: Path) -> Span:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    return lambda start, count: reader.get_batch(range(start, start + count)).asnumpy()


def decord_opened(path: Path) -> Span:
    import decord

    def read(start: int, count: int) -> np.ndarray:
        reader = decord.VideoReader(str(path), num_threads=1)
        frames: np.ndarray = reader.get_batch(range(start, start + count)).asnumpy()
        return frames

    decord.VideoReader(str(path))  # fails where decord cannot open the file
    return read


def pyav_kept(path: Path) -> Span:
    container = av.open(str(path))
    return lambda start, count: _pyav_span(container, start, count)


def pyav_opened(path: Path) -> Span:
    def read(start: int, count: int) -> np.ndarray:
        with av.open(str(path)) as container:
            return _pyav_span(container, start, count)

    return read


def _pyav_span(container: av.container.InputContainer, start: int, count: int) -> np.ndarray:
    stream = container.streams.video[0]
    assert stream.time_base is not None and stream.average_rate is not None
    tick = 1 / (stream.average_rate * stream.time_base)
    frames = dict[int, np.ndarray]()
    for target in (start, max(start - 60, 0)):  # again where a key frame comes too late
        container.seek(int(target * tick), stream=stream)
        for frame in container.decode(stream):
            index = round((frame.pts or 0) / tick)
            if index >= start:
                frames[index] = frame.to_ndarray(format="rgb24")
            if index >= start + count - 1:
                break
        if start in frames:
            break
    return np.stack([frames[index] for index in range(start, start + count)])


def torchcodec_kept(path: Path) -> Span:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC")
    return lambda start, count: decoder.get_frames_in_range(start, start + count).data.numpy()


VIDEO_PEERS: dict[str, Callable[[Path], Span]] = {
    "decord, kept": decord_kept,
    "decord, opened": decord_opened,
    "PyAV, kept": pyav_kept,
    "PyAV, opened": pyav_opened,
    "torchcodec, kept": torchcodec_kept,
}


def tfrecord_and_pillow(shard: Path, camera: str) -> Callable[[], list[np.ndarray]]:
    """One pass over a shard: the frames (T, H, W, 3) of one camera, and the actions (T, A)."""
    from tfrecord.reader import tfrecord_loader

    image, action = f"steps/observation/{camera}", "steps/action"

    def read() -> list[np.ndarray]:
        found = []
        for example in tfrecord_loader(str(shard), None, {image: "byte", action: "float"}):
            pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in example[image]]
            frames = np.stack([np.asarray(picture) for picture in pictures])
            found += [frames, np.reshape(example[action], (len(frames), -1))]
        return found

    return read
