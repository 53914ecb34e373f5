"""What LeRobotWriter leaves on disk, read back with nothing but av, pyarrow and json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from vidwm.data.lerobot_writer import VIDEO_KEY, LeRobotWriter
from vidwm.errors import UserError

FPS = 10
LENGTHS = (7, 4, 9)
VIDEO = f"videos/{VIDEO_KEY}/chunk-000/file-{{:03d}}.mp4"


def writer(root: Path, **changes: object) -> LeRobotWriter:
    settings = {
        "fps": FPS,
        "robot_type": "toy",
        "action_names": ("dx", "dy"),
        "state_names": ("x", "y", "z"),
        "crf": 4,
        "episodes_per_video": 2,
    }
    return LeRobotWriter(root, **{**settings, **changes})


def toy_episode(number: int, length: int) -> dict[str, object]:
    """A bright square that moves over a background whose colour tells the episode."""
    rng = np.random.default_rng(number)
    frames = np.full((length, 32, 48, 3), (60 * number, 90, 200 - 60 * number), np.uint8)
    for t in range(length):
        frames[t, 8:16, 2 * t : 2 * t + 8] = (250, 240, 20)
    return {
        "frames": frames,
        "actions": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        "states": rng.uniform(-1, 1, (length, 3)).astype(np.float32),
        "task": ("reach", "push")[number % 2],
    }


EPISODES = [toy_episode(number, length) for number, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "toy"
    with writer(path) as open_writer:
        for number, episode in enumerate(EPISODES):
            open_writer.add_episode(**episode, extra={"quality": "expert", "success": number > 0})
    return path


def decode(path: Path) -> tuple[np.ndarray, list[bool]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(len(frames)) / FPS)
    return np.stack([f.to_ndarray(format="rgb24") for f in frames]), [f.key_frame for f in frames]


def read_pieces(folder: Path) -> list[dict[str, Any]]:
    """The rows of two files of two and one episode."""
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["file-000.parquet", "file-001.parquet"]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_videos_hold_the_frames_in_full_chroma_with_a_keyframe_per_episode(root: Path) -> None:
    for file_index, numbers in ((0, (0, 1)), (1, (2,))):
        frames, keys = decode(root / VIDEO.format(file_index))
        expected = np.concatenate([EPISODES[n]["frames"] for n in numbers])
        assert frames.shape == expected.shape
        assert np.abs(frames.astype(int) - expected).max() < 16
        starts = np.cumsum([0, *(LENGTHS[n] for n in numbers[:-1])])
        assert np.flatnonzero(keys).tolist() == starts.tolist()
    with av.open(str(root / VIDEO.format(0))) as container:
        assert container.streams.video[0].pix_fmt == "yuv444p"


def test_episode_table_places_every_episode(root: Path) -> None:
    rows = read_pieces(root / "meta/episodes/chunk-000")
    assert [row["length"] for row in rows] == list(LENGTHS)
    assert [(r["dataset_from_index"], r["dataset_to_index"]) for r in rows] == [
        (0, 7),
        (7, 11),
        (11, 20),
    ]
    video = [
        tuple(row[f"videos/{VIDEO_KEY}/{field}"] for field in ("file_index", "from_timestamp"))
        for row in rows
    ]
    assert video == [(0, 0.0), (0, 0.7), (1, 0.0)]
    assert [row["tasks"] for row in rows] == [["reach"], ["push"], ["reach"]]
    assert [row["success"] for row in rows] == [False, True, True]


def test_data_rows_are_the_actions_and_states(root: Path) -> None:
    assert [r["data/file_index"] for r in read_pieces(root / "meta/episodes/chunk-000")] == [
        0,
        0,
        1,
    ]
    rows = read_pieces(root / "data/chunk-000")
    for column, key in (("action", "actions"), ("observation.state", "states")):
        stored = np.array([row[column] for row in rows], np.float32)
        assert np.array_equal(stored, np.concatenate([e[key] for e in EPISODES]))
    assert [row["index"] for row in rows] == list(range(sum(LENGTHS)))
    assert [row["frame_index"] for row in rows] == [t for n in LENGTHS for t in range(n)]
    assert [row["task_index"] for row in rows] == [0] * 7 + [1] * 4 + [0] * 9
    assert rows[8]["timestamp"] == pytest.approx(0.1)


def test_info_and_tasks(root: Path) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 20, 2)
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]}
    assert info["features"][VIDEO_KEY]["shape"] == [32, 48, 3]
    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0, 1], "task": ["reach", "push"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics(root: Path) -> None:
    stats = json.loads((root / "meta/stats.json").read_text())
    actions = np.concatenate([e["actions"] for e in EPISODES]).astype(np.float64)
    for name, expected in {
        "min": actions.min(0),
        "max": actions.max(0),
        "mean": actions.mean(0),
        "std": actions.std(0),
        "q01": np.quantile(actions, 0.01, axis=0),
        "q99": np.quantile(actions, 0.99, axis=0),
    }.items():
        assert stats["action"][name] == pytest.approx(expected, abs=1e-6)
    pixels = np.concatenate([e["frames"].reshape(-1, 3) for e in EPISODES]) / 255
    for name, expected in (("mean", pixels.mean(0)), ("std", pixels.std(0))):
        assert np.ravel(stats[VIDEO_KEY][name]) == pytest.approx(expected)
    assert np.ravel(stats[VIDEO_KEY]["q50"]) == pytest.approx(np.median(pixels, axis=0))


def test_an_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="taken exists already"):
        writer(tmp_path / "taken")
    (tmp_path / "new.partial").mkdir()
    with pytest.raises(UserError, match=r"new\.partial is left over"):
        writer(tmp_path / "new")
    assert (tmp_path / "taken" / "precious.txt").read_text() == "mine"


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="simulator"), writer(tmp_path / "broken") as unfinished:
        unfinished.add_episode(**EPISODES[0])
        raise RuntimeError("simulator crashed")
    with pytest.raises(UserError, match="no episode was recorded"), writer(tmp_path / "empty"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((7, 3, 32, 48), np.uint8)}, "frames must be"),
        ({"frames": np.zeros((7, 32, 64, 3), np.uint8)}, "cannot join"),
        ({"actions": np.zeros((6, 2), np.float32)}, "actions must be"),
        ({"states": np.full((7, 3), np.nan, np.float32)}, "states must be"),
    ],
)
def test_wrong_arrays_are_refused(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ValueError, match=message), writer(tmp_path / "wrong") as open_writer:
        open_writer.add_episode(**EPISODES[0])
        open_writer.add_episode(**{**EPISODES[0], **change})
