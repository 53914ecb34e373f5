"""A piece of a LeRobotDataset v3.0: a video of concatenated episodes, their rows, and their table.

The table is written last and gets its name in one step, so a piece that has its table is whole, and
a writer that was killed goes on behind it. Video bytes depend on nothing but the frames.
"""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.frame import PictureType

from vidwm.data.parquet import open_parquet, read_parquet
from vidwm.errors import UserError

VIDEO_KEY = "observation.images.main"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-{file_index:03d}.parquet"
# x264's code for AVX-512 reads memory it never set (PyAV 18.1): its bytes differ from run to run,
# with no gain in speed here. The other instructions all give the bytes that plain C gives.
SAME_BYTES = {"x264-params": "asm=SSE4.2"} if platform.machine() in ("x86_64", "AMD64") else {}


def data_path(root: Path, piece: int) -> Path:
    """The rows of a piece, a step each."""
    return root / DATA_PATH.format(chunk_index=0, file_index=piece)


def video_path(root: Path, piece: int) -> Path:
    """The frames of a piece."""
    return root / VIDEO_PATH.format(video_key=VIDEO_KEY, chunk_index=0, file_index=piece)


def episodes_path(root: Path, piece: int) -> Path:
    """The table of a piece, a row an episode; it is there when the piece is whole."""
    return root / EPISODES_PATH.format(file_index=piece)


@dataclass(kw_only=True)
class Totals:
    """What is summed up over episodes; tasks are numbered in the order they come in.

    frame_shape (H, W, 3), () before the first episode; pixel_counts (3, 256), of each value.
    """

    episodes: int = 0
    frames: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    frame_shape: tuple[int, ...] = ()
    pixel_counts: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), np.int64))

    def add(self, other: Totals) -> None:
        """Take those of later episodes into account."""
        self.episodes += other.episodes
        self.frames += other.frames
        for task in other.tasks:
            self.tasks.setdefault(task, len(self.tasks))
        self.frame_shape = other.frame_shape
        self.pixel_counts += other.pixel_counts


def totals_of(frames: np.ndarray, task: str) -> Totals:
    """Those of one episode of frames (T, H, W, 3) uint8."""
    channels = (frames[..., channel].ravel() for channel in range(3))
    counts = np.stack([np.bincount(channel, minlength=256) for channel in channels])
    shape = frames.shape[1:]
    return Totals(
        episodes=1, frames=len(frames), tasks={task: 0}, frame_shape=shape, pixel_counts=counts
    )


def find_piece(root: Path, piece: int) -> Totals | None:
    """What a writer finished earlier; None if it did not. UserError if its table is damaged."""
    file = episodes_path(root, piece)
    if not file.exists():
        return None
    with open_parquet(file) as parquet:
        stated = (parquet.schema_arrow.metadata or {}).get(b"vidwm", b"{}")
    rows = read_parquet(file, ["tasks", "length"])
    try:
        facts = json.loads(stated)
        tasks = dict.fromkeys(task for row in rows for task in row["tasks"])
        return Totals(
            episodes=len(rows),
            frames=sum(row["length"] for row in rows),
            tasks={task: number for number, task in enumerate(tasks)},
            frame_shape=tuple(map(int, facts["frame_shape"])),
            pixel_counts=np.array(facts["pixel_counts"], np.int64).reshape(3, 256),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no table of this writer; remove {root}.") from error


class Piece:
    """One that is being written: `add` episodes, then `finish`, or `abandon` after an error."""

    def __init__(self, root: Path, number: int, size: tuple[int, int], fps: int, crf: int) -> None:
        self.number, self.totals = number, Totals()
        self._root = root
        self._rows: list[pa.Table] = []
        self._episodes: list[dict[str, object]] = []
        self._video = _VideoFile(video_path(root, number), size, fps, crf)

    def add(
        self, frames: np.ndarray, rows: pa.Table, episode: dict[str, object], totals: Totals
    ) -> None:
        """Frames (T, H, W, 3) uint8, a row for each, the episode's row of the table, its totals."""
        self._video.append(frames)
        self._rows.append(rows)
        self._episodes.append(episode)
        self.totals.add(totals)

    def finish(self) -> None:
        """Write what is left, the table last."""
        self._video.close()
        data, table = data_path(self._root, self.number), episodes_path(self._root, self.number)
        data.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(data, self._rows[0].schema, compression="zstd") as writer:
            for rows in self._rows:
                writer.write_table(rows)
        facts = {
            "frame_shape": self.totals.frame_shape,
            "pixel_counts": self.totals.pixel_counts.tolist(),
        }
        episodes = pa.Table.from_pylist(self._episodes)
        episodes = episodes.replace_schema_metadata({"vidwm": json.dumps(facts)})
        table.parent.mkdir(parents=True, exist_ok=True)
        unfinished = table.with_suffix(".unfinished")
        pq.write_table(episodes, unfinished, compression="zstd")
        unfinished.replace(table)

    def abandon(self) -> None:
        """Remove the files of a piece that will not be finished."""
        self._video.abandon()
        table = episodes_path(self._root, self.number)
        leftover = data_path(self._root, self.number), table.with_suffix(".unfinished")
        for file in (video_path(self._root, self.number), *leftover):
            file.unlink(missing_ok=True)


class _VideoFile:
    """One H.264 file of concatenated episodes; frame n is shown at n / fps seconds."""

    def __init__(self, path: Path, size: tuple[int, ...], fps: int, crf: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.container = av.open(str(path), "w")
        # No scene cuts, one thread: keyframes where episodes start.
        options = {"crf": str(crf), "preset": "veryslow", "forced-idr": "1", "sc_threshold": "0"}
        self.stream = self.container.add_stream("libx264", rate=fps, options=options | SAME_BYTES)
        self.stream.height, self.stream.width = size
        self.stream.pix_fmt = "yuv444p"
        self.stream.codec_context.gop_size = 1000
        self.stream.codec_context.thread_count = 1
        self.time_base = Fraction(1, fps)
        self.num_frames = 0

    def append(self, frames: np.ndarray) -> None:
        for place, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = self.num_frames, self.time_base
            if place == 0:
                frame.pict_type = PictureType.I
            self.container.mux(self.stream.encode(frame))
            self.num_frames += 1

    def close(self) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()

    def abandon(self) -> None:
        with suppress(av.FFmpegError):  # it may fail again, as on a full disk
            self.container.close()
