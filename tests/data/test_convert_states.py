"""`vidwm data convert`: which robot states are kept, and what bad ones do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_convert import convert
from vidwm.data.datasets import open_dataset
from vidwm.data.facts import states_of


def test_states_tasks_and_names_are_kept(
    lerobot: tuple[Path, list[np.ndarray], list[np.ndarray]], tmp_path: Path
) -> None:
    root, _, actions = lerobot
    assert convert(root, tmp_path / "again") == 0
    old, new = open_dataset(root), open_dataset(tmp_path / "again")
    assert new.action_names == old.action_names == ("dx", "dy", "grip")
    assert [new.episode(i).task for i in range(5)] == [f"task {i % 2}" for i in range(5)]
    states = states_of(new, range(5))
    assert states is not None and list(states.names) == ["x", "y"]
    assert (states.rows == np.concatenate(actions)[:, :2]).all()
    assert convert(root, tmp_path / "npz", "--format", "npz") == 0
    facts = json.loads((tmp_path / "npz/convert.json").read_text())
    assert facts["action_names"] == ["dx", "dy", "grip"] and facts["fps"] == 10
    assert facts["tasks"]["episode_000001"] == "task 1"
    with np.load(tmp_path / "npz/episode_000002.npz") as arrays:
        assert (arrays["state"] == actions[2][:, :2]).all()
    states = states_of(open_dataset(tmp_path / "npz"), range(5))
    assert states is not None and list(states.names) == ["state_0", "state_1"]
    assert (states.rows == np.concatenate(actions)[:, :2]).all()
    back = open_dataset(tmp_path / "npz")
    assert back.action_names == old.action_names
    assert [back.episode(i).task for i in range(5)] == [f"task {i % 2}" for i in range(5)]


def with_states(folder: Path, *states: np.ndarray | None) -> Path:
    """Npz episodes of 6 frames, each with these states."""
    folder.mkdir()
    for index, rows in enumerate(states):
        image = np.full((6, 16, 16, 3), 40 * index, np.uint8)
        more = {} if rows is None else {"state": rows}
        np.savez(folder / f"{index}.npz", image=image, action=np.ones((6, 2)), **more)
    return folder


@pytest.mark.parametrize("form", ["npz", "lerobot"])
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.full((6, 3), np.nan), "episode 1: expected 6 rows of finite robot states"),
        (np.ones((3, 6)), r"1.npz: the states 'state' are (3, 6) float64; expected numbers (6, 3)"),
        (None, "1.npz: the states 'state' are absent"),
    ],
)
def test_an_episode_of_bad_states_is_named_or_skipped(
    tmp_path: Path, form: str, bad: np.ndarray | None, said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = with_states(tmp_path / "data", np.zeros((6, 3)), bad, np.ones((6, 3)))
    words = [data, tmp_path / "new", "--format", form]
    assert convert(*words) == 2
    assert said in capsys.readouterr().err
    words[1] = tmp_path / "good"
    assert convert(*words, "--on_bad_episode", "skip") == 0
    assert "1 of 3 episodes are damaged" in capsys.readouterr().out
    states = states_of(open_dataset(tmp_path / "good"), [0, 1])
    assert states is not None and states.rows[:, 0].tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize("form", ["npz", "lerobot"])
@pytest.mark.parametrize(("size", "kept"), [(None, False), (4, False), (3, True)])
def test_a_mixture_keeps_the_states_that_all_parts_have(
    tmp_path: Path, form: str, size: int | None, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    first = with_states(tmp_path / "a", np.zeros((6, 3)))
    second = with_states(tmp_path / "b", None if size is None else np.ones((6, size)))
    (tmp_path / "mix.json").write_text(
        json.dumps({"a": {"data": str(first)}, "b": {"data": str(second)}})
    )
    assert convert(tmp_path / "mix.json", tmp_path / "new", "--format", form) == 0
    assert ("robot states are left out" in capsys.readouterr().out) == (not kept)
    assert bool(states_of(open_dataset(tmp_path / "new"), [0, 1])) == kept
