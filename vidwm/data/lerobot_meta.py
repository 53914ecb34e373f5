"""The files of a LeRobotDataset v3.0 that are about all of it: info, statistics, tasks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidwm.data.lerobot_piece import DATA_PATH, VIDEO_KEY, VIDEO_PATH, Totals, data_path
from vidwm.data.lerobot_stats import pixel_stats, row_stats

ACTION, STATE = "action", "observation.state"


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The rate in frames per second, the robot, and a name per dimension; () without a state."""

    fps: int
    robot_type: str
    action_names: list[str]
    state_names: list[str]

    @property
    def names(self) -> dict[str, list[str]]:
        """The columns of the data files that hold vectors."""
        state = {STATE: self.state_names} if self.state_names else {}
        return {ACTION: self.action_names, **state}


def write_meta(root: Path, vectors: Vectors, totals: Totals, pieces: int) -> None:
    """Write them into a folder that has so many pieces."""
    tasks = pa.table({"task_index": list(totals.tasks.values()), "task": list(totals.tasks)})
    # Readers load this file with pandas and look the task up in its index.
    tasks = tasks.replace_schema_metadata({"pandas": json.dumps(_TASK_INDEX)})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    columns = list(vectors.names)
    files = [data_path(root, piece) for piece in range(pieces)]
    rows = pa.concat_tables(pq.read_table(f, columns=columns, partitioning=None) for f in files)
    stats = {
        name: row_stats(np.stack(rows[name].to_numpy(zero_copy_only=False))) for name in columns
    }
    stats[VIDEO_KEY] = pixel_stats(totals.pixel_counts, totals.frames)
    for name, content in (("info", _info(vectors, totals)), ("stats", stats)):
        text = json.dumps(content, indent=1) + "\n"
        (root / f"meta/{name}.json").write_text(text, encoding="utf-8")


def _info(vectors: Vectors, totals: Totals) -> dict[str, object]:
    height, width, _ = totals.frame_shape
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
            "video.fps": vectors.fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }
    numbers = ("frame_index", "episode_index", "index", "task_index")
    features = {
        **{name: _feature("float32", names) for name, names in vectors.names.items()},
        VIDEO_KEY: video,
        "timestamp": _feature("float32"),
        **{name: _feature("int64") for name in numbers},
    }
    return {
        "codebase_version": "v3.0",
        "robot_type": vectors.robot_type,
        "total_episodes": totals.episodes,
        "total_frames": totals.frames,
        "total_tasks": len(totals.tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": vectors.fps,
        "splits": {"train": f"0:{totals.episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features,
    }


def _feature(dtype: str, names: list[str] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [len(names) if names else 1], "names": names}


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
