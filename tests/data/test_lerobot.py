"""LeRobotDataset v3.0: episodes come back as recorded."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vidwm.data.datasets import open_dataset
from vidwm.data.lerobot import LeRobotDataset
from vidwm.data.video_av import AvVideo
from vidwm.errors import UserError

Recorded = tuple[Path, list[np.ndarray], list[np.ndarray]]
EditJson = Callable[[Path, Callable[[dict[str, Any]], None]], None]
KEY = "observation.images.main"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = f"videos/{KEY}/chunk-000/file-001.mp4"


def edit_table(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(file)), file)


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_episodes_come_back(lerobot: Recorded) -> None:
    root, frames, actions = lerobot
    dataset = open_dataset(root)
    assert (dataset.format, dataset.fps, dataset.path) == ("lerobot", 10.0, root)
    assert dataset.action_names == ("dx", "dy", "grip")
    assert list(dataset.lengths) == [6, 7, 8, 9, 10]
    assert dataset.episode_ids[4] == "episode_000004"
    assert dataset.camera == KEY
    for i in (4, 0, 3, 1, 2):
        episode = dataset.episode(i)
        assert (episode.id, episode.task) == (f"episode_{i:06d}", f"task {i % 2}")
        assert (episode.actions == actions[i]).all()
        error = np.abs(episode.frames.transpose(0, 2, 3, 1).astype(int) - frames[i])
        assert error.mean(axis=(1, 2, 3)).max() < 3


def test_an_episode_is_not_its_neighbour(lerobot: Recorded) -> None:
    """Frames one place off would pass a loose comparison: each must be nearest to itself."""
    root, frames, _ = lerobot
    everything = np.concatenate(frames).astype(int)
    dataset = open_dataset(root)
    read = np.concatenate([dataset.episode(i).frames for i in range(5)]).transpose(0, 2, 3, 1)
    read, everything = read[:, ::4, ::4].astype(int), everything[:, ::4, ::4]
    distance = np.abs(read[:, None] - everything[None]).mean(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == np.arange(len(everything))).all()


def test_only_the_episodes_frames_are_decoded(
    lerobot: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = []
    plain = AvVideo._decode

    def counting(*args: Any) -> Any:
        for number, frame in plain(*args):
            numbers.append(number)
            yield number, frame

    monkeypatch.setattr(AvVideo, "_decode", counting)
    open_dataset(lerobot[0]).episode(1)
    assert numbers == list(range(6, 6 + 7))


def test_a_span_is_a_cut_of_the_episode(lerobot: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = []
    plain = AvVideo._decode

    def counting(*args: Any) -> Any:
        for number, frame in plain(*args):
            numbers.append(number)
            yield number, frame

    dataset = LeRobotDataset(lerobot[0])
    whole = dataset.episode(3)
    monkeypatch.setattr(AvVideo, "_decode", counting)
    cut = dataset.span(3, 5, 8)
    assert (cut.frames == whole.frames[5:8]).all() and (cut.actions == whole.actions[5:8]).all()
    assert max(numbers) == 5 + 2  # nothing after it; what is before, from the last key frame on
    for start, stop in ((-1, 2), (3, 3), (8, 10)):
        with pytest.raises(ValueError, match="of an episode of 9 frames"):
            dataset.span(3, start, stop)


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture()
def with_images(copy: Path, lerobot: Recorded, edit_json: EditJson) -> Path:
    """The same set with its frames as images in the parquet file too: bytes or paths by turns."""
    frames = np.concatenate(lerobot[1])
    (copy / "images").mkdir()
    cells = []
    for i, frame in enumerate(frames):
        if i % 2:
            (copy / f"images/{i}.png").write_bytes(png(frame))
            cells.append({"bytes": None, "path": f"images/{i}.png"})
        else:
            cells.append({"bytes": png(frame), "path": None})
    edit_table(copy / DATA, lambda table: table.append_column("observation.eye", pa.array(cells)))

    def add_camera(info: dict[str, Any]) -> None:
        info["features"]["observation.eye"] = {"dtype": "image", "shape": [3, 32, 48]}
        info["features"]["observation.a_depth"] = {
            "dtype": "video",
            "shape": [32, 48, 1],
            "info": {"video.is_depth_map": True},
        }

    edit_json(copy / "meta/info.json", add_camera)
    return copy


def test_images_in_parquet(with_images: Path, lerobot: Recorded) -> None:
    dataset = open_dataset(with_images)
    assert dataset.cameras == ("observation.eye", KEY)  # depth is no camera
    assert dataset.camera == "observation.eye"
    for i in range(5):
        assert (dataset.episode(i).frames.transpose(0, 2, 3, 1) == lerobot[1][i]).all()


def test_choosing_a_camera(with_images: Path) -> None:
    assert open_dataset(with_images, camera=KEY).camera == KEY
    assert open_dataset(with_images, camera="main").camera == KEY
    with pytest.raises(UserError, match=r"no camera 'mian'; expected one of observation\.eye, "):
        open_dataset(with_images, camera="mian")


def test_image_path_outside(with_images: Path) -> None:
    cells = pq.read_table(with_images / DATA)["observation.eye"].to_pylist()
    cells[1]["path"] = "../../secret.png"
    edit_table(with_images / DATA, lambda t: with_column(t, "observation.eye", cells))
    with pytest.raises(UserError, match=r"'\.\./\.\./secret\.png', which lies outside"):
        open_dataset(with_images).episode(0)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"bytes": b"no image", "path": None}, "image of frame 0 cannot be decoded"),
        ({"bytes": png(np.zeros((8, 8, 3), np.uint8))[:-30], "path": None}, "cannot be decoded"),
        ({"bytes": None, "path": None}, "has no image at frame 0"),
        ({"bytes": None, "path": "images/none.png"}, r"none\.png cannot be read"),
    ],
)
def test_broken_images(with_images: Path, cell: dict[str, Any], message: str) -> None:
    cells = pq.read_table(with_images / DATA)["observation.eye"].to_pylist()
    cells[0] = cell
    edit_table(with_images / DATA, lambda t: with_column(t, "observation.eye", cells))
    with pytest.raises(UserError, match=message):
        open_dataset(with_images).episode(0)


def test_splits(copy: Path, edit_json: EditJson) -> None:
    edit_json(
        copy / "meta/info.json", lambda info: info.update(splits={"train": "0:3", "test": "3:5"})
    )
    assert list(open_dataset(copy).lengths) == [6, 7, 8]
    test = open_dataset(copy, split="test")
    assert test.episode_ids == ["episode_000003", "episode_000004"]
    assert len(test.episode(0)) == 9
    with pytest.raises(UserError, match="no split 'val'; expected one of train, test"):
        open_dataset(copy, split="val")


def test_other_path_templates(copy: Path, edit_json: EditJson) -> None:
    (copy / "rows").mkdir()
    (copy / DATA).rename(copy / "rows/0-0.parquet")
    edit_json(
        copy / "meta/info.json",
        lambda info: info.update(data_path="rows/{chunk_index}-{file_index}.parquet"),
    )
    assert len(open_dataset(copy).episode(2)) == 8


@pytest.mark.parametrize("key", ["data_path", "video_path"])
@pytest.mark.parametrize("template", ["../file.mp4", "/etc/passwd", "videos/../../file", ".."])
def test_templates_stay_inside(copy: Path, edit_json: EditJson, key: str, template: str) -> None:
    edit_json(copy / "meta/info.json", lambda info: info.update({key: template}))
    with pytest.raises(UserError, match=r"^\S*info\.json names the file .* lies outside"):
        open_dataset(copy)


def test_a_camera_name_cannot_leave_the_folder(copy: Path, edit_json: EditJson) -> None:
    key = "../../../outside"

    def rename(info: dict[str, Any]) -> None:
        info["features"][key] = info["features"].pop(KEY)

    edit_json(copy / "meta/info.json", rename)
    edit_table(
        copy / EPISODES,
        lambda t: t.rename_columns([name.replace(KEY, key) for name in t.column_names]),
    )
    with pytest.raises(UserError, match="lies outside"):
        open_dataset(copy)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"motors": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"a": 0, "b": 1, "c": 2}, ("a", "b", "c")),
        (None, ("action_0", "action_1", "action_2")),
        (["too", "few"], ("action_0", "action_1", "action_2")),
    ],
)
def test_action_names(copy: Path, edit_json: EditJson, names: Any, expected: Any) -> None:
    edit_json(copy / "meta/info.json", lambda info: info["features"]["action"].update(names=names))
    assert LeRobotDataset(copy).action_names == expected


def test_the_sample_is_read(request: pytest.FixtureRequest) -> None:
    sample = request.config.rootpath / "assets" / "sample"
    dataset = open_dataset(sample)
    info = json.loads((sample / "meta/info.json").read_text())
    assert (len(dataset), sum(dataset.lengths)) == (info["total_episodes"], info["total_frames"])
    assert dataset.episode(len(dataset) - 1).frames.shape[2:] == (64, 64)
