"""LeRobotDataset v3.0: every broken file is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.data.test_lerobot import DATA, EPISODES, KEY, VIDEO, EditJson, edit_table, with_column
from vidwm.data.datasets import open_dataset
from vidwm.errors import UserError


def remove_camera(info: dict[str, Any]) -> None:
    del info["features"][KEY]


def remove_action(info: dict[str, Any]) -> None:
    del info["features"]["action"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.update(codebase_version="v9"), "codebase_version 'v9'"),
        (lambda info: info.pop("fps"), "lacks or misstates 'fps'"),
        (lambda info: info.update(fps=0), "states fps 0"),
        (lambda info: info.update(fps="fast"), "lacks or misstates"),
        (lambda info: info.update(features=[]), "lacks or misstates"),
        (lambda info: info.update(total_episodes=6), "counts 6 episodes, but 5 are listed"),
        (lambda info: info.update(data_path="{nothing}"), "template '{nothing}' cannot be filled"),
        (lambda info: info.update(data_path="{chunk_index:09999999999d}"), "cannot be filled"),
        (lambda info: info.update(data_path="{chunk_index.real}"), "cannot be filled"),
        (lambda info: info.update(video_path=None), "template '' cannot be filled"),
        (lambda info: info.update(chunks_size=-1), "states chunks_size -1"),
        (lambda info: info["features"]["action"].update(shape=[10**12]), "misstates actions of"),
        (lambda info: info.update(splits={"a": "0:2", "b": "half"}), None),
        (lambda info: info.update(splits={"a": "all", "b": "half"}), "expected 'first:end'"),
        (remove_camera, "lists no camera images"),
        (remove_action, "'action'"),
    ],
)
def test_broken_info(
    copy: Path, edit_json: EditJson, change: Callable[[Any], None], message: str | None
) -> None:
    edit_json(copy / "meta/info.json", change)
    if message is None:
        assert len(open_dataset(copy)) == 2
        return
    with pytest.raises(UserError, match=r"info\.json") as caught:
        open_dataset(copy)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_info_is_no_json_object(copy: Path, content: str) -> None:
    (copy / "meta/info.json").write_text(content)
    with pytest.raises(UserError, match=r"info\.json"):
        open_dataset(copy)


@pytest.mark.parametrize("file", [DATA, VIDEO])
def test_absent_files_are_found_at_once(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(UserError, match=f"{Path(file).name} does not exist"):
        open_dataset(copy)


@pytest.mark.parametrize("file", [DATA, EPISODES])
def test_truncated_parquet(copy: Path, file: str) -> None:
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{Path(file).name} is no readable parquet"):
        open_dataset(copy)


def test_parquet_with_a_broken_page(copy: Path) -> None:
    content = bytearray((copy / DATA).read_bytes())
    content[4:2000] = bytes(len(content[4:2000]))
    (copy / DATA).write_bytes(content)
    dataset = open_dataset(copy)
    with pytest.raises(UserError, match=r"file-000\.parquet"):
        dataset.episode(0)


def test_truncated_video(copy: Path) -> None:
    content = (copy / VIDEO).read_bytes()
    (copy / VIDEO).write_bytes(content[: len(content) // 2])
    dataset = open_dataset(copy)
    assert len(dataset.episode(0)) == 6
    with pytest.raises(UserError, match=r"file-001\.mp4"):
        dataset.episode(4)


def test_video_shorter_than_the_metadata_says(copy: Path) -> None:
    starts = pq.read_table(copy / EPISODES)[f"videos/{KEY}/from_timestamp"].to_pylist()
    starts[4] += 0.5
    edit_table(copy / EPISODES, lambda t: with_column(t, f"videos/{KEY}/from_timestamp", starts))
    with pytest.raises(UserError, match=r"file-001\.mp4 has no frame 19"):
        open_dataset(copy).episode(4)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("length", 10**12, "expected a length from 1 to 10000000"),
        ("length", 10**6, "claims"),
        ("length", 0, "length 0"),
        ("length", 8, "must have the frames 0 to 7 in order"),
        (f"videos/{KEY}/from_timestamp", float("nan"), "lacks or misstates"),
        (f"videos/{KEY}/from_timestamp", -1.0, "starts at frame -10"),
        (f"videos/{KEY}/from_timestamp", 1e18, r"file-000\.mp4"),
        ("data/file_index", None, "cannot be filled in"),
    ],
)
def test_broken_episode_rows(copy: Path, column: str, value: Any, message: str) -> None:
    values = pq.read_table(copy / EPISODES)[column].to_pylist()
    if column == "length" and value == 8:
        values[4] -= 1  # or the file would be found too short before
    values[1] = value
    edit_table(copy / EPISODES, lambda t: with_column(t, column, values))
    with pytest.raises(UserError, match=message):
        open_dataset(copy).episode(1)


def test_missing_episode_column(copy: Path) -> None:
    edit_table(copy / EPISODES, lambda t: t.drop_columns(["length"]))
    with pytest.raises(UserError, match=r"file-000\.parquet lacks or misstates 'length'"):
        open_dataset(copy)


def test_missing_action_column(copy: Path) -> None:
    edit_table(copy / DATA, lambda t: t.drop_columns(["action"]))
    with pytest.raises(UserError, match=r"file-000\.parquet: episode 0 cannot be read.*action"):
        open_dataset(copy).episode(0)


def test_actions_of_another_size(copy: Path, edit_json: EditJson) -> None:
    def widen(info: dict[str, Any]) -> None:
        info["features"]["action"].update(shape=[4], names=None)

    edit_json(copy / "meta/info.json", widen)
    dataset = open_dataset(copy)
    assert dataset.action_names == ("action_0", "action_1", "action_2", "action_3")
    with pytest.raises(UserError, match=r"parquet, episode 0: column 'action' must hold 4 numbers"):
        dataset.episode(0)


def test_nan_actions(copy: Path) -> None:
    actions = np.stack(pq.read_table(copy / DATA)["action"].to_pylist())
    actions[7] = np.nan
    edit_table(copy / DATA, lambda t: with_column(t, "action", actions.tolist()))
    dataset = open_dataset(copy)
    assert len(dataset.episode(0)) == 6
    with pytest.raises(UserError, match=r"file-000\.parquet, episode 1: .*frame 1 is NaN"):
        dataset.episode(1)


def test_no_episodes(copy: Path, edit_json: EditJson) -> None:
    edit_table(copy / EPISODES, lambda t: t.slice(0, 0))
    edit_json(copy / "meta/info.json", lambda info: info.update(total_episodes=0))
    with pytest.raises(UserError, match="holds no episode"):
        open_dataset(copy)
