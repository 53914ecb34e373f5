"""LeRobotDataset v2.0 and v2.1: a file an episode, the same reader, the same care."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidwm.data.datasets import open_dataset
from vidwm.data.lerobot import LeRobotDataset
from vidwm.errors import UserError

EditJson = Callable[[Path, Callable[[dict[str, Any]], None]], None]
CAMERAS = ("observation.images.front", "observation.images.wrist")
DATA = "data/chunk-000/episode_000001.parquet"
VIDEO = f"videos/chunk-000/{CAMERAS[0]}/episode_000001.mp4"


def actions_of(number: int) -> np.ndarray:
    """As the fixture recorded them."""
    return np.arange(2 * (5 + number), dtype=np.float32).reshape(-1, 2) + 100 * number


def write_episodes(root: Path, episodes: list[dict[str, Any]]) -> None:
    lines = [json.dumps(episode) + "\n" for episode in episodes]
    (root / "meta/episodes.jsonl").write_text("".join(lines))


def edit_episode(root: Path, **values: Any) -> None:
    """Change episode 1."""
    text = (root / "meta/episodes.jsonl").read_text()
    episodes = [json.loads(line) for line in text.splitlines()]
    episodes[1].update(values)
    write_episodes(root, episodes)


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_episodes_come_back(
    old: Path, edit_json: EditJson, moving: Callable[..., np.ndarray], version: str
) -> None:
    edit_json(old / "meta/info.json", lambda info: info.update(codebase_version=version))
    dataset = open_dataset(old)
    assert isinstance(dataset, LeRobotDataset)
    assert (dataset.format, dataset.version, dataset.fps) == ("lerobot", version, 10)
    assert (dataset.cameras, dataset.lengths) == (CAMERAS, [5, 6, 7])
    wrist = open_dataset(old, camera="wrist")
    for i in (2, 0, 1):  # the third lies in another chunk
        episode, frames = dataset.episode(i), moving(5 + i, seed=i)
        assert (episode.id, episode.task) == (f"episode_{i:06d}", f"task {i}")
        assert (episode.actions == actions_of(i)).all()
        assert np.abs(episode.frames.transpose(0, 2, 3, 1).astype(int) - frames).mean() < 3
        assert (wrist.episode(i).frames.transpose(0, 2, 3, 1) == frames[:, :, ::-1]).all()


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_span_is_a_cut_of_the_episode(old: Path, camera: str) -> None:
    dataset = LeRobotDataset(old, camera=camera)
    whole, cut = dataset.episode(2), dataset.span(2, 3, 6)
    assert (cut.frames == whole.frames[3:6]).all()
    assert (cut.actions == whole.actions[3:6]).all()


def test_tasks_by_number(old: Path) -> None:
    edit_episode(old, tasks=[4])
    (old / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 4, "task": "fold"}) + "\n\n")
    assert open_dataset(old).episode(1).task == "fold"
    edit_episode(old, tasks=[])
    assert open_dataset(old).episode(1).task == ""


def test_splits(old: Path, edit_json: EditJson) -> None:
    splits = {"train": "0:2", "test": "2:3"}
    edit_json(old / "meta/info.json", lambda info: info.update(splits=splits))
    assert open_dataset(old, split="test").episode_ids == ["episode_000002"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length": 0}, "episode 1 has length 0"),
        ({"length": 10**12}, "expected a length from 1 to"),
        ({"length": 10**6}, "episode_000001.parquet holds at most"),
        ({"length": "many"}, "episodes.jsonl lacks or misstates"),
        ({"length": 5}, "must have the frames 0 to 4 in order"),
        ({"length": 7}, "must have the frames 0 to 6 in order"),
        ({"tasks": 3}, "episodes.jsonl lacks or misstates"),
        ({"episode_index": 7}, "episode_000007.parquet does not exist"),
        ({"episode_index": None}, "episodes.jsonl lacks or misstates"),
    ],
)
def test_misstated_episodes(old: Path, values: dict[str, Any], message: str) -> None:
    edit_episode(old, **values)
    with pytest.raises(UserError) as caught:
        open_dataset(old).episode(1)
    assert message in str(caught.value) and str(old) in str(caught.value)


@pytest.mark.parametrize("line", ["{", "[1]", "\x00", "[" * 10**5])
def test_a_line_that_is_no_object(old: Path, line: str) -> None:
    with (old / "meta/episodes.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(UserError, match=r"episodes\.jsonl, line 4"):
        open_dataset(old)


def test_count_of_episodes(old: Path, edit_json: EditJson) -> None:
    edit_json(old / "meta/info.json", lambda info: info.update(total_episodes=4))
    with pytest.raises(UserError, match=r"counts 4 episodes, but 3 are listed.*episodes\.jsonl"):
        open_dataset(old)
    edit_json(old / "meta/info.json", lambda info: info.update(total_episodes=0))
    write_episodes(old, [])
    with pytest.raises(UserError, match="holds no episode"):
        open_dataset(old)


@pytest.mark.parametrize("file", [DATA, VIDEO, "meta/episodes.jsonl"])
def test_absent_files_are_found_at_once(old: Path, file: str) -> None:
    (old / file).unlink()
    with pytest.raises(UserError, match=f"{Path(file).name} does not exist"):
        open_dataset(old)


@pytest.mark.parametrize("file", [DATA, VIDEO])
def test_truncated(old: Path, file: str) -> None:
    content = (old / file).read_bytes()
    (old / file).write_bytes(content[: len(content) // 2])
    dataset = open_dataset(old)
    assert len(dataset.episode(0)) == 5
    with pytest.raises(UserError, match=Path(file).name):
        dataset.episode(1)


@pytest.mark.parametrize("file", [DATA, VIDEO, "meta/episodes.jsonl"])
def test_links_that_leave_the_folder(old: Path, file: str) -> None:
    outside = old.parent / Path(file).name
    (old / file).rename(outside)
    (old / file).symlink_to(outside)
    with pytest.raises(UserError, match=rf"{outside.name} is a link to .*, outside of"):
        open_dataset(old).episode(1)


@pytest.mark.parametrize("template", ["../{episode_index}", "/{episode_index}", ".."])
@pytest.mark.parametrize("key", ["data_path", "video_path"])
def test_templates_stay_inside(old: Path, edit_json: EditJson, key: str, template: str) -> None:
    edit_json(old / "meta/info.json", lambda info: info.update({key: template}))
    with pytest.raises(UserError, match=r"^\S*info\.json names the file .* lies outside"):
        open_dataset(old)
