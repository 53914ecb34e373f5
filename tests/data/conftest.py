"""Small recordings for the readers' tests: moving gradients in which every frame is its own."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.data.hdf5_files import aloha, robomimic  # noqa: F401
from tests.data.rlds_files import toy, write  # noqa: F401
from vidwm.data.lerobot_writer import LeRobotWriter
from vidwm.data.video import write_video


@pytest.fixture(scope="session")
def moving() -> Callable[..., np.ndarray]:
    """moving(T, H, W, seed): frames (T, H, W, 3) uint8."""

    def make(T: int, H: int = 32, W: int = 48, seed: int = 0) -> np.ndarray:
        y, x, t = np.mgrid[0:H, 0:W, 0:T]
        planes = [x * 3 + t * 7 + seed * 13, y * 5 + t * 11, x + y + t * 3 + seed * 29]
        channels = [128 + 100 * np.sin(plane / 40) for plane in planes]
        return np.stack(channels, axis=-1).transpose(2, 0, 1, 3).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def lerobot(
    tmp_path_factory: pytest.TempPathFactory, moving: Callable[..., np.ndarray]
) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    """A LeRobotDataset v3.0 of 5 episodes, as LeRobot writes it: 2 videos, rows in one file."""
    root = tmp_path_factory.mktemp("lerobot") / "set"
    generator = np.random.default_rng(0)
    frames = [moving(6 + i, seed=i) for i in range(5)]
    actions = [generator.normal(size=(len(f), 3)).astype(np.float32) for f in frames]
    with LeRobotWriter(
        root,
        fps=10,
        robot_type="arm",
        action_names=["dx", "dy", "grip"],
        state_names=["x", "y"],
        episodes_per_video=3,
    ) as writer:
        for i in range(5):
            writer.add_episode(
                frames=frames[i], actions=actions[i], states=actions[i][:, :2], task=f"task {i % 2}"
            )
    join_pieces(root)
    return root, frames, actions


def join_pieces(root: Path) -> None:
    """Put the rows, and the episodes, of all files into the first."""
    for folder in ("data/chunk-000", "meta/episodes/chunk-000"):
        files = sorted((root / folder).iterdir())
        table = pa.concat_tables([pq.read_table(file) for file in files])
        for name in ("data/file_index", "meta/episodes/file_index"):
            if name in table.column_names:
                first = pa.array([0] * len(table))
                table = table.set_column(table.column_names.index(name), name, first)
        for file in files[1:]:
            file.unlink()
        pq.write_table(table, files[0], compression="zstd", row_group_size=8)


@pytest.fixture()
def old(tmp_path: Path, moving: Callable[..., np.ndarray]) -> Path:
    """A LeRobotDataset v2.1 of 3 episodes, two in a chunk: a camera of videos, one of images."""
    front, wrist = "observation.images.front", "observation.images.wrist"
    root = tmp_path / "old"
    lines = []
    for i in range(3):
        frames, chunk = moving(5 + i, seed=i), f"chunk-{i // 2:03d}"
        video = root / f"videos/{chunk}/{front}/episode_{i:06d}.mp4"
        rows = root / f"data/{chunk}/episode_{i:06d}.parquet"
        video.parent.mkdir(parents=True, exist_ok=True)
        rows.parent.mkdir(parents=True, exist_ok=True)
        write_video(video, frames, 10)
        actions = np.arange(2 * len(frames), dtype=np.float32).reshape(-1, 2) + 100 * i
        table = {
            "action": actions.tolist(),
            wrist: [{"bytes": png(frame[:, ::-1]), "path": None} for frame in frames],
            "frame_index": np.arange(len(frames)),
            "episode_index": np.full(len(frames), i),
        }
        pq.write_table(pa.table(table), rows)
        episode = {"episode_index": i, "tasks": [f"task {i}"], "length": len(frames)}
        lines.append(json.dumps(episode) + "\n")
    info = {
        "codebase_version": "v2.1",
        "fps": 10,
        "total_episodes": 3,
        "chunks_size": 2,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
        "splits": {"train": "0:3"},
        "features": {
            "action": {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]},
            front: {"dtype": "video", "shape": [32, 48, 3]},
            wrist: {"dtype": "image", "shape": [32, 48, 3]},
        },
    }
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/episodes.jsonl").write_text("".join(lines))
    return root


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _feature(values: Any) -> bytes:
    if len(values) and isinstance(values[0], bytes):
        return _field(1, b"".join(_field(1, value) for value in values))
    array = np.asarray(values).ravel()
    if array.dtype.kind == "f":
        return _field(2, _field(1, array.astype("<f4").tobytes()))
    return _field(3, _field(1, b"".join(_varint(int(number)) for number in array)))


@pytest.fixture(scope="session")
def example() -> Callable[[dict[str, Any]], bytes]:
    """example({key: values}): a serialised tf.train.Example."""

    def make(features: dict[str, Any]) -> bytes:
        entries = (
            _field(1, _field(1, key.encode()) + _field(2, _feature(values)))
            for key, values in features.items()
        )
        return _field(1, b"".join(entries))

    return make


@pytest.fixture(scope="session")
def tfrecord() -> Callable[[Sequence[bytes]], bytes]:
    """tfrecord(payloads): the content of a TFRecord file."""

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    def make(payloads: Sequence[bytes]) -> bytes:
        out = b""
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            out += length + masked(length) + payload + masked(payload)
        return out

    return make


@pytest.fixture()
def edit_json() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """edit_json(file, change): change(content) in place."""

    def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


@pytest.fixture()
def copy(lerobot: tuple[Path, Any, Any], tmp_path: Path) -> Path:
    """A copy of the LeRobot dataset that a test may break."""
    return Path(shutil.copytree(lerobot[0], tmp_path / "set"))
