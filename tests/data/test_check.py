"""`vidwm data check`: every fault is found where it is, and a good set is left in peace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vidwm.cli import main
from vidwm.data.check import check_dataset
from vidwm.data.clip import Episode
from vidwm.data.datasets import open_dataset
from vidwm.data.faults import ActionTally, episode_faults, spans
from vidwm.data.lag import LAGS, LagEvidence, lag_evidence, lag_test

SIZE = 32


def square_video(actions: np.ndarray, seed: int) -> np.ndarray:
    """(T, 32, 32, 3): a square over a fixed texture; actions[t] moves it between t and t + 1."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(60, 120, (SIZE, SIZE, 3))
    spot = rng.integers(150, 255, (9, 9, 3))
    place = np.full(2, 12.0)
    frames = np.empty((len(actions), SIZE, SIZE, 3), np.uint8)
    for t, move in enumerate(actions):
        y, x = place.round().astype(int)
        frames[t] = texture
        frames[t, y : y + 9, x : x + 9] = spot
        place = np.clip(place + 2 * move, 0, SIZE - 9)
    return frames


def write_set(
    folder: Path, count: int = 12, frames: int = 24, shift: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Episodes whose stored actions are `shift` rows too late (below 0: too early)."""
    folder.mkdir(parents=True)
    arrays = {}
    for index in range(count):
        rng = np.random.default_rng(100 + index)
        actions = rng.uniform(-1, 1, (frames, 2)).astype(np.float32)
        video = square_video(actions, index)
        arrays[f"{index:02d}"] = {"image": video, "action": np.roll(actions, shift, axis=0)}
        np.savez(folder / f"{index:02d}.npz", **arrays[f"{index:02d}"])
    return arrays


def check(*words: object) -> int:
    return main(["data", "check", *map(str, words)])


def test_a_good_set_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "set")
    assert check(tmp_path / "set", "--fix_report", tmp_path / "good.json") == 0
    shown = capsys.readouterr().out
    assert "checked  12 episodes, 288 frames" in shown
    assert "actions lead frames: they show from lag +0 on, most at +0" in shown
    assert "Nothing is wrong." in shown
    report = json.loads((tmp_path / "good.json").read_text())
    assert report["episodes"] == [f"{i:02d}" for i in range(12)]
    assert report["left_out"] == {} and report["lag"]["onset"] == 0


@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_shifted_actions_are_found(
    tmp_path: Path, shift: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "set", shift=shift)
    late = shift > 0
    assert check(tmp_path / "set") == (1 if late else 0)  # early may also be a slow robot
    shown = capsys.readouterr().out
    assert f"show from lag {shift:+d} on, most at {shift:+d}" in shown
    rows = "one row" if abs(shift) == 1 else "2 rows"
    words = f"motion comes {rows} before" if late else f"motion begins {rows} after its action"
    assert words in shown
    assert (f"each row should move up by {shift}" in shown) == late


def smooth_actions(rng: np.random.Generator) -> np.ndarray:
    actions = rng.normal(size=(40, 2)) * 0.4
    for t in range(1, 40):
        actions[t] += 0.8 * actions[t - 1]
    return actions


def late_robot(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(actions, moves) of a policy that heads for targets, of a robot that coasts after them."""
    place, aim, target = np.zeros(2), np.zeros(2), rng.uniform(-8, 10, 2)
    actions, moves = [], []
    for _ in range(40):
        if np.abs(target - place).max() < 1.5:
            target = rng.uniform(-8, 10, 2)
        action = np.clip(0.25 * (target - place), -1, 1) + 0.2 * rng.normal(size=2)
        aim = np.clip(aim + 2 * action, -12, 11)
        moves.append(0.4 * (aim - place) / 2)
        place = place + 2 * moves[-1]
        actions.append(action)
    return np.array(actions), np.array(moves)


def shifted(seen: Sequence[LagEvidence | None], shift: int) -> list[LagEvidence]:
    """Evidence whose actions are `shift` rows late."""
    return [replace(e, actions=np.roll(e.actions, shift, axis=0)) for e in seen if e]


@pytest.mark.parametrize("late", [False, True])
def test_smooth_actions_and_late_robots_are_aligned(late: bool) -> None:
    """Neighbours of an action are much like it, and their effects last: only news counts."""
    seen = []
    for index in range(16):
        rng = np.random.default_rng(100 + index)
        actions, moves = late_robot(rng) if late else (smooth_actions(rng),) * 2
        seen.append(lag_evidence(episode(square_video(moves, index), actions)))
    for shift in LAGS:
        lag = lag_test(shifted(seen, shift))
        assert lag is not None and (lag.onset, lag.best) == (shift, shift)
        assert lag.wins[LAGS.index(shift)] > 0.95


def test_little_data_condemns_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "few", count=6, shift=1)
    assert check(tmp_path / "few") == 0
    shown = capsys.readouterr().out
    assert "note     motion comes one row before" in shown
    assert "should move up by 1 (or chance: this is little data)" in shown
    assert "% of resamples of the episodes)" in shown
    write_set(tmp_path / "two", count=2)
    assert check(tmp_path / "two") == 0
    assert "% of resamples of parts of them, as there are few" in capsys.readouterr().out
    write_set(tmp_path / "tiny", count=6, frames=8)
    assert check(tmp_path / "tiny") == 0
    assert "lag      not tested: too few frames" in capsys.readouterr().out


def test_actions_of_other_episodes_are_undecided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = write_set(tmp_path / "set")
    names = list(arrays)
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        swapped = {"image": arrays[name]["image"], "action": arrays[other]["action"]}
        np.savez(tmp_path / f"set/{name}.npz", **swapped)
    assert check(tmp_path / "set") == 0
    assert "cannot tell: within chance; most at" in capsys.readouterr().out


def test_each_bad_episode_is_named_and_none_stops_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    arrays = write_set(folder, frames=30)

    def spoil(name: str, **changed: np.ndarray) -> None:
        np.savez(folder / f"{name}.npz", **{**arrays[name], **changed})

    nan = arrays["01"]["action"].copy()
    nan[4, 1] = np.nan
    spoil("01", action=nan)
    black = arrays["02"]["image"].copy()
    black[[3, 4, 9]] = 0
    spoil("02", image=black)
    frozen = arrays["03"]["image"].copy()
    frozen[8:20] = frozen[8]
    spoil("03", image=frozen)
    doubled = arrays["04"]["image"][np.arange(30) // 2 * 2]
    spoil("04", image=doubled)
    spoil("05", action=np.zeros((30, 2), np.float32))
    spoil("06", image=arrays["07"]["image"])
    spoil("08", image=arrays["08"]["image"][:, ::2])
    (folder / "09.npz").write_bytes((folder / "09.npz").read_bytes()[:500])
    spoil("10", action=arrays["10"]["action"][:12])
    assert check(folder, "--fix_report", tmp_path / "good.json") == 1
    report = json.loads((tmp_path / "good.json").read_text())
    assert report["episodes"] == ["00", "06", "11"]
    expected = {
        "01": "the action of frame 4 is NaN or infinite",
        "02": "frames 3 to 4, 9 black or of one colour",
        "03": "the picture freezes for 11 frames while the actions change",
        "04": "55% of the frames repeat the one before",
        "05": "the actions never change while the picture does",
        "07": "the same frames as episode 06",
        "08": "frames are 32x16, those of most episodes 32x32",
        "09": "09.npz is no readable npz file",
        "10": "'action' is (12, 2) float32; expected numbers",
    }
    assert report["left_out"].keys() == expected.keys()
    shown = capsys.readouterr().out
    assert "9 of 12 episodes are wrong:" in shown
    for name, words in expected.items():
        assert len(report["left_out"][name]) == 1
        assert words in report["left_out"][name][0] and f"  {name}: " in shown


def test_when_no_episode_is_good_no_list_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", image=image, action=np.ones((4, 1), np.float32))
    assert check(tmp_path, "--fix_report", tmp_path / "good.json") == 1
    assert "No episode is good" in capsys.readouterr().out
    assert not (tmp_path / "good.json").exists()


def test_bad_input_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "absent") == 2
    (tmp_path / "a.npz").write_bytes(b"no npz")
    assert check(tmp_path) == 2
    assert "none of its 1 npz files is readable" in capsys.readouterr().err
    assert check(tmp_path, "--fix_report", tmp_path) == 2


def test_constant_and_saturated_dimensions_are_notes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tally = ActionTally(4)
    for _ in range(5):
        free = rng.normal(size=(40, 1))
        switch = rng.integers(0, 2, (40, 1))
        tally.add(np.hstack([free, np.clip(free, -0.5, 0.5), np.full((40, 1), 3.0), switch]))
    cut, constant = tally.notes(["free", "cut", "constant", "switch"])
    assert constant == "action constant is always 3"
    assert cut.startswith("action cut is at its bounds, -0.5 or 0.5, in ")


def test_a_tally_forgets_bounds_that_were_none() -> None:
    tally = ActionTally(1)
    tally.add(np.array([[0.0], [0.0], [1.0]]))
    tally.add(np.array([[-1.0], [0.0], [2.0]]))
    assert (tally.at_low[0], tally.at_high[0], tally.rows) == (1, 1, 6)


def episode(frames: np.ndarray, actions: np.ndarray) -> Episode:
    return Episode(
        id="e", frames=frames.transpose(0, 3, 1, 2), actions=actions.astype(np.float32), fps=10
    )


def test_a_robot_at_rest_is_no_fault() -> None:
    actions = np.zeros((40, 2))
    actions[:5] = 1
    assert not list(episode_faults(episode(square_video(actions, 0), actions), 40))


def test_stated_and_real_length() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (9, 2))
    (fault,) = episode_faults(episode(square_video(actions, 0), actions), 12)
    assert fault == "9 frames, but the dataset states 12"


def test_spans_of_frames() -> None:
    assert spans([4]) == "frame 4"
    assert spans([1, 2, 3, 7]) == "frames 1 to 3, 7"
    assert spans(range(0, 40, 2)) == "frames 0, 2, 4, 6, 8 and 15 more spans"


def test_timestamps_that_drift_are_found(
    lerobot: tuple[Path, list[np.ndarray], list[np.ndarray]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert check(lerobot[0]) == 0
    capsys.readouterr()
    root = tmp_path / "set"
    shutil.copytree(lerobot[0], root)
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    seconds = table["timestamp"].to_numpy().copy()
    episodes = table["episode_index"].to_numpy()
    seconds[episodes == 2] *= 1.3
    place = table.schema.get_field_index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", [seconds]), file)
    assert check(root) == 1
    shown = capsys.readouterr().out
    assert "1 of 5 episodes are wrong" in shown
    assert "episode_000002: time stamps are up to 2.1 frames away from 10 frames per" in shown


def test_libero_camera_names_are_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set", count=1)
    dataset = open_dataset(tmp_path / "set")
    assert not check_dataset(dataset).notes
    monkeypatch.setattr(type(dataset), "format", "hdf5")
    dataset.camera = "obs/agentview_rgb"  # type: ignore[attr-defined]
    monkeypatch.setattr(dataset, "episode", lambda index: replace(EPISODE, id="00"))
    assert any("upside down" in note for note in check_dataset(dataset).notes)
    dataset.flip = "vertical"  # type: ignore[attr-defined]
    assert not any("upside down" in note for note in check_dataset(dataset).notes)


ACTIONS = np.random.default_rng(0).uniform(-1, 1, (24, 2))
EPISODE = episode(square_video(ACTIONS, 0), ACTIONS)


@pytest.mark.parametrize(
    ("name", "onset", "most"),
    [("metaworld_npz", 0, 0), ("bair_npz", 0, 0), ("bridge_rlds", None, -1)],
)
def test_real_recordings(shared: Path, name: str, onset: int | None, most: int) -> None:
    """Bridge: 150 rows of smooth actions, whose recorded states change with actions of lag -1 and 0
    alike (correlations about 0.9).
    """
    found = check_dataset(open_dataset(shared / "data" / name))
    assert found.fine, found
    assert found.lag is not None and (found.lag.onset, found.lag.best) == (onset, most)
    assert (found.lag.wins[LAGS.index(most)] > 0.95) == (onset is not None)


def test_meta_world_shifted_is_found(shared: Path) -> None:
    """By 1 is a replay buffer's rows as they are stored: action t led TO frame t."""
    dataset = open_dataset(shared / "data/metaworld_npz")
    seen = [lag_evidence(dataset.episode(i)) for i in range(len(dataset))]
    for shift in (-2, -1, 1, 2):
        lag = lag_test(shifted(seen, shift))
        assert lag is not None and (lag.onset, lag.best) == (shift, shift)
