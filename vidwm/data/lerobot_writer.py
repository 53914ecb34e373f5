"""Write a LeRobotDataset v3.0: parquet rows, episodes concatenated into H.264 videos, metadata.

Layout after https://github.com/huggingface/lerobot (0.6, `src/lerobot/datasets`); readers need
nothing but the files. Chroma is kept in full (yuv444p): subsampling it would cap what a prediction
of small moving things can score. Every episode starts at a keyframe, so that reading one decodes
no other. The dataset appears under its name only when it is complete. Left out: several cameras,
and per-episode statistics, which only tools that merge or split datasets use.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.frame import PictureType

from vidwm.data.lerobot_stats import pixel_stats, row_stats
from vidwm.errors import UserError

VIDEO_KEY = "observation.images.main"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"


class LeRobotWriter:
    """Context manager: `add_episode` as often as wanted; leaving it normally finishes the dataset.

    An exception inside the `with` removes the unfinished files. UserError if `root` exists.
    Without `state_names` there is no state.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        fps: int,
        robot_type: str,
        action_names: Sequence[str],
        state_names: Sequence[str],
        crf: int = 11,
        episodes_per_video: int = 60,
    ) -> None:
        self.root = Path(root)
        if self.root.exists():
            raise UserError(f"{self.root} exists already; choose a new folder or remove it first.")
        self.partial = self.root.with_name(self.root.name + ".partial")
        if self.partial.exists():
            raise UserError(
                f"{self.partial} is left over from an interrupted recording (or belongs to one "
                f"that is running); remove it and start again."
            )
        self.fps, self.robot_type, self.crf = fps, robot_type, crf
        self.action_names, self.state_names = list(action_names), list(state_names)
        self.episodes_per_video = episodes_per_video
        self.tasks: dict[str, int] = {}
        self.episodes: list[dict[str, object]] = []
        self.rows: list[pa.Table] = []
        self.num_frames = 0
        self.pixel_counts = np.zeros((3, 256), np.int64)
        self.frame_shape: tuple[int, ...] | None = None
        self.video: _VideoFile | None = None

    def __enter__(self) -> LeRobotWriter:
        (self.partial / EPISODES_PATH).parent.mkdir(parents=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.video is not None:
            self.video.close()
        if kind is None and not self.episodes:
            shutil.rmtree(self.partial)
            raise UserError(f"{self.root}: no episode was recorded; add at least one.")
        if kind is not None:
            shutil.rmtree(self.partial)
            return
        self._write_tables()
        self._write_json()
        self.partial.rename(self.root)

    def add_episode(
        self,
        *,
        frames: np.ndarray,
        actions: np.ndarray,
        states: np.ndarray,
        task: str,
        extra: Mapping[str, str | bool | int | float] | None = None,
    ) -> None:
        """Append one episode; `extra` becomes columns of the episode table.

        frames (T, H, W, 3) uint8, the same H and W for every episode; actions (T, A) and states
        (T, S) float32, finite. ValueError otherwise.
        """
        self._check(frames, actions, states)
        number, length = len(self.episodes), len(frames)
        file_index, place = divmod(number, self.episodes_per_video)
        if place == 0:
            if self.video is not None:
                self.video.close()
            path = VIDEO_PATH.format(video_key=VIDEO_KEY, chunk_index=0, file_index=file_index)
            self.video = _VideoFile(self.partial / path, frames.shape[1:3], self.fps, self.crf)
        assert self.video is not None
        begin = self.video.num_frames
        self.video.append(frames)
        for channel in range(3):
            self.pixel_counts[channel] += np.bincount(frames[..., channel].ravel(), minlength=256)
        task_index = self.tasks.setdefault(task, len(self.tasks))
        self.rows.append(self._episode_rows(actions, states, number, task_index))
        self.episodes.append(
            {
                "episode_index": number,
                "tasks": [task],
                "length": length,
                "dataset_from_index": self.num_frames,
                "dataset_to_index": self.num_frames + length,
                "data/chunk_index": 0,
                "data/file_index": 0,
                f"videos/{VIDEO_KEY}/chunk_index": 0,
                f"videos/{VIDEO_KEY}/file_index": file_index,
                f"videos/{VIDEO_KEY}/from_timestamp": begin / self.fps,
                f"videos/{VIDEO_KEY}/to_timestamp": (begin + length) / self.fps,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                **(extra or {}),
            }
        )
        self.num_frames += length

    def _check(self, frames: np.ndarray, actions: np.ndarray, states: np.ndarray) -> None:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(
                f"frames must be (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}"
            )
        if self.frame_shape is None:
            self.frame_shape = frames.shape[1:]
        if frames.shape[1:] != self.frame_shape:
            raise ValueError(
                f"frames of {frames.shape[1:]} cannot join a dataset of {self.frame_shape}"
            )
        named = (("actions", actions, self.action_names), ("states", states, self.state_names))
        for name, rows, names in named:
            expected = (len(frames), len(names))
            if rows.shape != expected or rows.dtype != np.float32 or not np.isfinite(rows).all():
                raise ValueError(
                    f"{name} must be finite float32 {expected}, got {rows.shape} {rows.dtype}"
                )

    def _episode_rows(
        self, actions: np.ndarray, states: np.ndarray, number: int, task_index: int
    ) -> pa.Table:
        length = len(actions)
        steps = np.arange(length)
        state = {"observation.state": _vectors(states)} if self.state_names else {}
        return pa.table(
            {
                "action": _vectors(actions),
                **state,
                "timestamp": (steps / self.fps).astype(np.float32),
                "frame_index": steps,
                "episode_index": np.full(length, number),
                "index": self.num_frames + steps,
                "task_index": np.full(length, task_index),
            }
        )

    def _write_tables(self) -> None:
        data = self.partial / DATA_PATH.format(chunk_index=0, file_index=0)
        data.parent.mkdir(parents=True)
        with pq.ParquetWriter(data, self.rows[0].schema, compression="zstd") as writer:
            for rows in self.rows:
                writer.write_table(rows)
        pq.write_table(
            pa.Table.from_pylist(self.episodes), self.partial / EPISODES_PATH, compression="zstd"
        )
        tasks = pa.table({"task_index": list(self.tasks.values()), "task": list(self.tasks)})
        # Readers load this file with pandas and look the task up in its index.
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(_TASK_INDEX)})
        pq.write_table(tasks, self.partial / "meta/tasks.parquet")

    def _write_json(self) -> None:
        assert self.frame_shape is not None
        height, width, _ = self.frame_shape
        video = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv444p",
                "video.is_depth_map": False,
                "video.fps": self.fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }
        vectors = {"action": _feature("float32", self.action_names)}
        if self.state_names:
            vectors["observation.state"] = _feature("float32", self.state_names)
        features = {
            **vectors,
            VIDEO_KEY: video,
            "timestamp": _feature("float32"),
            **{
                name: _feature("int64")
                for name in ("frame_index", "episode_index", "index", "task_index")
            },
        }
        info = {
            "codebase_version": "v3.0",
            "robot_type": self.robot_type,
            "total_episodes": len(self.episodes),
            "total_frames": self.num_frames,
            "total_tasks": len(self.tasks),
            "chunks_size": 1000,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": features,
        }
        rows = pa.concat_tables(self.rows)
        stats = {
            name: row_stats(np.stack(rows[name].to_numpy(zero_copy_only=False))) for name in vectors
        }
        stats[VIDEO_KEY] = pixel_stats(self.pixel_counts, self.num_frames)
        for name, content in (("info", info), ("stats", stats)):
            text = json.dumps(content, indent=1) + "\n"
            (self.partial / f"meta/{name}.json").write_text(text, encoding="utf-8")


class _VideoFile:
    """One H.264 file of concatenated episodes; frame n is shown at n / fps seconds."""

    def __init__(self, path: Path, size: tuple[int, int], fps: int, crf: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.container = av.open(str(path), "w")
        # No scene cuts, one thread: keyframes where episodes start.
        options = {"crf": str(crf), "preset": "veryslow", "forced-idr": "1", "sc_threshold": "0"}
        self.stream = self.container.add_stream("libx264", rate=fps, options=options)
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


_TASK_INDEX = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64"}
        | {"numpy_type": "int64", "metadata": None},
        {"name": "task", "field_name": "task", "pandas_type": "unicode"}
        | {"numpy_type": "object", "metadata": None},
    ],
    "pandas_version": "2.0.0",
}


def _vectors(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def _feature(dtype: str, names: list[str] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [len(names) if names else 1], "names": names}
