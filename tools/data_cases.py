"""What reading data is timed on: clips of small videos of every kind, and a folder of records.

A video has 300 frames of 256 x 320: a textured table, an arm that moves over it, the noise of a
camera. `h264` is x264 as it comes (a key frame every 250 frames), `h264-short` has one every 12,
`h264-pairs` and `av1` every 2, as LeRobot writes; `av1-long` and `hevc` every 60.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from data_peers import VIDEO_PEERS, tfrecord_and_pillow
from kept_scheduler import kept_scheduler

from vidwm.data.datasets import open_dataset
from vidwm.data.video import read_frames
from vidwm.errors import first_line

FRAMES, HEIGHT, WIDTH, CLIP, FPS = 300, 256, 320, 16, 10
AV1 = {"crf": "30", "preset": "12", "svtav1-params": "lp=1"}
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {}),
    "h264-short": ("libx264", {"g": "12"}),
    "h264-pairs": ("libx264", {"g": "2"}),
    "hevc": ("libx265", {"x265-params": "log-level=none:keyint=60"}),
    "av1": ("libsvtav1", {"g": "2"} | AV1),
    "av1-long": ("libsvtav1", {"g": "60"} | AV1),
}

Side = Callable[[int], list[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """`sides` read item 0 .. items - 1 each; `absent` says why others cannot."""

    what: str
    items: int
    sides: dict[str, Side]
    absent: dict[str, str]


def video_case(name: str, folder: Path) -> Case:
    """A clip is an item, by its first frame; the video is written into `folder`."""
    path = folder / f"{name}.mp4"
    write_scene(path, *ENCODERS[name])
    makers: dict[str, Callable[[Path], Callable[[int, int], np.ndarray]]] = {
        "vidwm": lambda path: partial(read_frames, path),
        "vidwm, torchcodec": lambda path: partial(read_frames, path, backend="torchcodec"),
        "vidwm, decord": lambda path: partial(read_frames, path, backend="decord"),
    }
    sides, absent = dict[str, Side](), dict[str, str]()
    for side, make in (makers | VIDEO_PEERS).items():
        try:
            read = make(path)
            read(0, CLIP)
        except Exception as error:  # each library has its own
            absent[side] = first_line(error)
        else:
            sides[side] = lambda start, read=read: [read(start, CLIP)]  # type: ignore[misc]
    what = f"clips of {CLIP} frames from {name} at {WIDTH} x {HEIGHT}"
    return Case(what=what, items=FRAMES - CLIP, sides=sides, absent=absent)


def rlds_case(folder: Path) -> Case:
    """A pass over all episodes of one camera is the only item; the folder has one shard."""
    dataset = open_dataset(folder)
    (shard,) = folder.rglob("*.tfrecord*")
    peer = tfrecord_and_pillow(shard, str(dataset.camera))

    def read(_: int) -> list[np.ndarray]:
        episodes = (dataset.episode(index) for index in range(len(dataset)))
        return [array for e in episodes for array in (e.frames.transpose(0, 2, 3, 1), e.actions)]

    sides: dict[str, Side] = {"vidwm": read, "tfrecord + Pillow": lambda _: peer()}
    what = f"passes over {len(dataset)} episodes of {folder.name}, camera {dataset.camera}"
    return Case(what=what, items=1, sides=sides, absent={})


def write_scene(path: Path, encoder: str, options: dict[str, str]) -> None:
    """A textured table, something round that moves over it, and a camera's noise."""
    with kept_scheduler(), av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=FPS, options=options)
        stream.height, stream.width = HEIGHT, WIDTH
        stream.pix_fmt = "yuv420p"
        for picture in _scene():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _scene() -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [128 + 60 * np.sin(x / 17 + y / 31 + channel) for channel in range(3)]
    table = np.stack(waves, axis=-1) + generator.normal(0, 6, (HEIGHT, WIDTH, 3))
    for t in range(FRAMES):
        picture = table + generator.normal(0, 2, table.shape)
        center = WIDTH * (0.5 + np.sin(t / 23) / 3), HEIGHT * (0.5 + np.cos(t / 31) / 3)
        picture[np.hypot(x - center[0], y - center[1]) < 40] = (200, 60, 40 + t % 50)
        yield picture.clip(0, 255).astype(np.uint8)
