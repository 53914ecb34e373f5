"""`vidwm data inspect`: true figures of a named sample, damage noted, a sheet to look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidwm.cli import main
from vidwm.data import looking
from vidwm.data.contact_sheet import CLIP_FRAMES, Clip, contact_sheet, cut_clip
from vidwm.data.datasets import open_dataset
from vidwm.data.dimensions import BINS, bars, describe
from vidwm.data.inspect import duration, inspect_dataset
from vidwm.data.looking import choose_sample


def inspect(*words: object) -> int:
    return main(["data", "inspect", *map(str, words)])


def test_the_facts_of_a_lerobot_dataset(
    lerobot: tuple[Path, list[np.ndarray], list[np.ndarray]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root, _, actions = lerobot
    assert inspect(root, "--json", tmp_path / "new/facts.json") == 0
    facts = json.loads((tmp_path / "new/facts.json").read_text())
    assert (facts["format"], facts["version"], facts["robot"]) == ("lerobot", "v3.0", "arm")
    assert (facts["episodes"], facts["frames"], facts["fps"]) == (5, 40, 10)
    assert facts["seconds"] == pytest.approx(4.0)
    assert facts["episode_frames"] == {"min": 6, "median": 8, "max": 10}
    assert facts["codec"] == "h264 yuv444p"
    assert facts["resolutions"] == {"48x32": 5}
    assert facts["tasks"] == {"task 0": 3, "task 1": 2}
    on_disk = [file.stat().st_size for file in root.rglob("*") if file.is_file()]
    assert (facts["bytes"], facts["files"]) == (sum(on_disk), len(on_disk))
    rows = np.concatenate(actions)
    for dim, name in enumerate(("dx", "dy", "grip")):
        found = facts["actions"][dim]
        assert found["name"] == name
        assert found["minimum"] == pytest.approx(rows[:, dim].min())
        assert found["q99"] == pytest.approx(np.quantile(rows[:, dim], 0.99), rel=1e-6)
        assert sum(found["histogram"]) == 40
    assert [state["name"] for state in facts["states"]] == ["x", "y"]
    assert facts["states"][1]["maximum"] == pytest.approx(rows[:, 1].max())
    shown = capsys.readouterr().out
    for said in ("lerobot v3.0, robot arm", "48x32 (width x height), h264 yuv444p", "task 0 (3)"):
        assert said in shown
    assert "Looked into 5 of 5 episodes (seed 0)" in shown


def write_npz(folder: Path, count: int, frames: int = 6, **changed: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for index in range(count):
        arrays = {
            "image": generator.integers(0, 255, (frames, 16, 20, 3), dtype=np.uint8),
            "action": generator.normal(size=(frames, 2)).astype(np.float32),
        }
        np.savez(folder / f"{index:03d}.npz", **{**arrays, **changed})
    return folder


def test_states_are_described_in_text_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qpos = np.arange(12.0).reshape(6, 2)
    folder = write_npz(tmp_path / "set", 2, qpos=qpos, reward=np.zeros((6, 1)))
    assert inspect(folder, "--json", tmp_path / "facts.json") == 0
    states = json.loads((tmp_path / "facts.json").read_text())["states"]
    assert [(s["name"], s["minimum"], s["maximum"]) for s in states] == [
        *(("qpos_0", 0, 10), ("qpos_1", 1, 11)),
    ]
    assert sum(states[0]["histogram"]) == 12
    table = capsys.readouterr().out.partition("\nstate ")[2]
    assert "qpos_1" in table and "reward" not in table


def test_only_a_sample_is_decoded_and_the_seed_chooses_it(tmp_path: Path) -> None:
    dataset = open_dataset(write_npz(tmp_path, 30))
    read: list[int] = []
    original = dataset.episode
    dataset.episode = lambda index: read.append(index) or original(index)  # type: ignore
    first, _ = inspect_dataset(dataset, count=4, seed=0)
    again, _ = inspect_dataset(dataset, count=4, seed=0)
    other, _ = inspect_dataset(dataset, count=4, seed=1)
    assert read[:4] == read[4:8] != read[8:]
    assert first == again != other
    assert first["sample"]["episodes"] == 4
    assert sum(first["actions"][0]["histogram"]) == 4 * 6


def test_long_episodes_make_a_smaller_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "MAX_FRAMES", 100)
    assert len(choose_sample([40] * 50, 32, 0).numbers) == 2
    assert len(choose_sample([1000] * 50, 32, 0).numbers) == 1
    assert len(choose_sample([1] * 50, 32, 0).numbers) == 32


def test_a_damaged_episode_is_named_and_the_rest_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(tmp_path / "set", 3)
    write_npz(tmp_path / "bad", 1, action=np.full((6, 2), np.nan, np.float32))
    (tmp_path / "bad/000.npz").rename(tmp_path / "set/bad.npz")
    assert inspect(tmp_path / "set", "--json", tmp_path / "facts.json") == 0
    shown = capsys.readouterr().out
    assert "cannot be read: " in shown and "bad.npz: Episode bad: the action of frame 0" in shown
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert list(facts["sample"]["unreadable"]) == ["bad"]
    assert facts["actions"][0]["histogram"] and facts["episodes"] == 4


def test_nothing_readable_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(tmp_path, 2, action=np.full((6, 2), np.inf, np.float32))
    assert inspect(tmp_path) == 2
    assert "none of the 2 episodes looked into can be read" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--json", "--contact_sheet"])
def test_a_file_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.png").mkdir()
    assert inspect(tmp_path / "absent", flag, tmp_path / "folder.png") == 2
    assert "is a folder; give the name of a file" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert inspect(tmp_path / "absent", flag, tmp_path / "file/x.png") == 2
    assert "file is a file; choose another name." in capsys.readouterr().err


def test_the_sheet_shows_the_frames_above_their_actions(tmp_path: Path) -> None:
    """Frames of one colour each: the colour stands where the frame belongs, curves below it."""
    frames = np.zeros((8, 3, 16, 16), np.uint8)
    frames[:, 0] = (np.arange(8) * 30)[:, None, None]
    actions = np.stack([np.arange(8.0), np.full(8, 5.0)], axis=1).astype(np.float32)
    clip = Clip(episode_id="a", start=3, frames=frames, actions=actions, task="日本")
    sheet = np.asarray(contact_sheet([clip, clip], ["rise", "still"]))
    assert sheet.dtype == np.uint8 and sheet.shape[1] > 8 * 128
    for column in range(8):
        assert (sheet[60, 8 + 64 + column * 130] == (30 * column, 0, 0)).all()
    below = sheet[26 + 18 + 128 - 18 :][:100]  # the curves of the first clip
    rise = np.argwhere((below == (0x00, 0x72, 0xB2)).all(axis=-1))
    assert len(rise) > 500
    assert np.corrcoef(rise[:, 1], rise[:, 0])[0, 1] < -0.99  # a larger value is higher up


@pytest.mark.parametrize("length", [1, 3, 60])
def test_clips_of_any_length_are_drawn(length: int, moving: Callable[..., np.ndarray]) -> None:
    frames = moving(length).transpose(0, 3, 1, 2)
    actions = np.zeros((length, 9), np.float32)
    clip = Clip(episode_id="a", start=0, frames=frames, actions=actions, task="t")
    assert contact_sheet([clip], [f"dimension number {i}" * 3 for i in range(9)]).height > 200


def test_a_clip_is_a_cut_that_fits(tmp_path: Path) -> None:
    episode = open_dataset(write_npz(tmp_path, 1, frames=40)).episode(0)
    starts = set()
    for seed in range(20):
        clip = cut_clip(episode, np.random.default_rng(seed))
        assert len(clip.frames) == len(clip.actions) == CLIP_FRAMES
        assert (clip.actions == episode.actions[clip.start :][:CLIP_FRAMES]).all()
        starts.add(clip.start)
    assert len(starts) > 5 and max(starts) <= 40 - CLIP_FRAMES


def test_histograms_as_text() -> None:
    (d,) = describe(np.array([[0.0], [0.0], [1.0], [np.nan]]), ["x"])
    assert (d.minimum, d.maximum, sum(d.histogram)) == (0, 1, 3)
    assert bars(d.histogram) == "█" + " " * (BINS - 2) + "▄"
    assert bars([1000, 1, 0]) == "█▁ "  # few are not none
    (constant,) = describe(np.full((4, 1), 0.3), ["x"])
    assert sum(constant.histogram) == 4 and constant.std == pytest.approx(0)


def test_durations() -> None:
    assert [duration(s) for s in (3.04, 200, 3599.4, 7 * 3600 + 480)] == [
        "3.0 s", "3 min 20 s", "59 min 59 s", "7 h 8 min",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bridge_rlds", ["rlds 1.0.0", "25 of 10 frames", "image_1, image_2, image_3"]),
        ("bair_npz", ["1 of 30 frames", "there are also aux1_image"]),
        ("metaworld_npz", ["15 of 101 frames", "64x64"]),
    ],
)
def test_real_recordings(
    shared: Path, tmp_path: Path, name: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(shared / "data" / name, "--contact_sheet", tmp_path / "sheet.png") == 0
    shown = capsys.readouterr().out
    assert all(words in shown for words in said)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000
