"""convert.json beside npz episodes: rate, names and tasks are read; nonsense is a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidwm.data.npz import NpzDataset
from vidwm.errors import UserError

GOOD: dict[str, Any] = {"fps": 12.5, "action_names": ["x", "grip"], "tasks": {"a": "push"}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in "ab":
        image = np.zeros((4, 8, 8, 3), np.uint8)
        np.savez(tmp_path / f"{name}.npz", image=image, action=np.ones((4, 2), np.float32))
    return tmp_path


def test_what_convert_stated_is_read(data: Path) -> None:
    (data / "convert.json").write_text(json.dumps(GOOD))
    dataset = NpzDataset(data)
    assert (dataset.fps, dataset.action_names) == (12.5, ("x", "grip"))
    assert [dataset.episode(i).task for i in range(2)] == ["push", ""]
    assert dataset.episode(0).fps == 12.5
    assert NpzDataset(data / "a.npz").fps == 12.5  # of one file of the folder as well


def test_without_it_the_rate_is_assumed(data: Path) -> None:
    dataset = NpzDataset(data)
    assert (dataset.fps, dataset.action_names) == (10.0, ("action_0", "action_1"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, "'fps' must be a rate above 0, got '0'"),
        ({"fps": float("nan")}, "'fps' must be a rate"),
        ({"fps": True}, "'fps' must be a rate"),
        ({"action_names": "xy"}, "'action_names' must be a list of names"),
        ({"action_names": ["x"]}, "names 1 action dimensions, the files have 2"),
        ({"tasks": [1]}, "'tasks' must be a task by episode"),
        ({"tasks": {"a": 1}}, "'tasks' must be a task by episode"),
    ],
)
def test_nonsense_is_a_sentence(data: Path, change: dict[str, Any], message: str) -> None:
    (data / "convert.json").write_text(json.dumps(GOOD | change))
    with pytest.raises(UserError, match=message):
        NpzDataset(data)
