"""`vidwm data convert`: actions to the last bit, frames exactly or nearly; a kill does no harm."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vidwm.cli import main
from vidwm.data import convert as conversion
from vidwm.data.clip import EpisodeDataset
from vidwm.data.datasets import open_dataset
from vidwm.data.facts import states_of

ROOT = Path(__file__).resolve().parents[2]
MIN_PSNR = 38.0  # dB, of H.264 at crf 11 in full chroma


def convert(*words: object) -> int:
    return main(["data", "convert", *map(str, words)])


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((first.astype(float) - second) ** 2)))


def tree(folder: Path) -> dict[str, bytes]:
    files = filter(Path.is_file, folder.rglob("*"))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten npz episodes of moving gradients, of different lengths, one with T - 1 actions."""
    folder = tmp_path_factory.mktemp("convert") / "source"
    folder.mkdir()
    for index in range(10):
        T = 5 + index
        y, x, t = np.mgrid[0:24, 0:36, 0:T]
        planes = [128 + 100 * np.sin((x * 3 + y * k + t * 9 + index) / 40) for k in (1, 4, 9)]
        frames = np.stack(planes, axis=-1).transpose(2, 0, 1, 3).astype(np.uint8)
        actions = np.random.default_rng(index).normal(size=(T - (index == 3), 2))
        np.savez(folder / f"{index:02d}.npz", image=frames, action=actions.astype(np.float32))
    return folder


def assert_same(
    first: EpisodeDataset, second: EpisodeDataset, *, exact: bool, ids: bool = False
) -> None:
    assert list(first.lengths) == list(second.lengths)
    if ids:
        assert list(first.episode_ids) == list(second.episode_ids)
    for number in range(len(first)):
        one, two = first.episode(number), second.episode(number)
        assert one.actions.tobytes() == two.actions.tobytes()
        if exact:
            assert (one.frames == two.frames).all()
        else:
            assert psnr(one.frames, two.frames) > MIN_PSNR


def test_there_and_back(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(source, tmp_path / "lerobot") == 0
    said = capsys.readouterr().out
    assert "convert: 10 episodes, 95 frames from npz to lerobot: " in said
    lerobot = open_dataset(tmp_path / "lerobot")
    assert (lerobot.format, lerobot.fps) == ("lerobot", 10.0)
    assert lerobot.action_names == ("action_0", "action_1")
    assert states_of(lerobot, [0]) is None
    assert_same(open_dataset(source), lerobot, exact=False)
    assert convert(tmp_path / "lerobot", tmp_path / "npz", "--format", "npz") == 0
    assert_same(lerobot, open_dataset(tmp_path / "npz"), exact=True, ids=True)
    assert convert(source, tmp_path / "copy", "--format=npz") == 0
    assert_same(open_dataset(source), open_dataset(tmp_path / "copy"), exact=True, ids=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "lerobot", "npz"]


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


@pytest.mark.parametrize("form", ["npz", "lerobot"])
def test_a_killed_conversion_ends_as_an_undisturbed_one(
    source: Path, tmp_path: Path, form: str
) -> None:
    assert convert(source, tmp_path / "straight", "--format", form) == 0
    code = (
        "import sys, time\n"
        "from vidwm.data import convert\n"
        "episodes = convert._episodes\n"
        "def slow(dataset):\n"
        "    for number, episode in episodes(dataset):\n"
        "        yield number, episode\n"
        "        if number == 4:\n"
        "            print('ready', flush=True); time.sleep(60)\n"
        "convert._episodes = slow\n"
        "from vidwm.cli import main\n"
        f"main(['data', 'convert', {str(source)!r}, {str(tmp_path / 'new')!r}, '--format={form}'])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    assert convert(source, tmp_path / "new", "--format", form) == 2  # the other one still runs
    child.kill()
    child.wait()
    left = {file: file.stat().st_mtime_ns for file in (tmp_path / "new.partial").rglob("*.npz")}
    assert not (tmp_path / "new").exists() and len(left) == (5 if form == "npz" else 0)
    assert convert(source, tmp_path / "new", "--format", form) == 0
    new, straight = tree(tmp_path / "new"), tree(tmp_path / "straight")
    assert new.keys() == straight.keys()
    # The encoder does not repeat its bytes, but for the codec's loss the frames are the same.
    assert [name for name in new if new[name] != straight[name] and not name.endswith(".mp4")] == []
    assert_same(open_dataset(source), open_dataset(tmp_path / "new"), exact=form == "npz")
    kept = [tmp_path / "new" / file.name for file in left]
    assert [file.stat().st_mtime_ns for file in kept] == list(left.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "straight"]


def test_other_settings_do_not_go_on_from_what_a_killed_run_left(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = conversion._episodes

    def three(dataset: EpisodeDataset):  # type: ignore[no-untyped-def]
        for number, episode in original(dataset):
            if number == 3:
                raise KeyboardInterrupt
            yield number, episode

    monkeypatch.setattr(conversion, "_episodes", three)
    assert convert(source, tmp_path / "new", "--format", "npz") == 130
    assert len(list((tmp_path / "new.partial").glob("*.npz"))) == 3
    monkeypatch.undo()
    (tmp_path / "list.json").write_text('["07", "08"]')
    words = ["--format", "npz", "--episodes", tmp_path / "list.json"]
    assert convert(source, tmp_path / "new", *words) == 0
    assert list(open_dataset(tmp_path / "new").episode_ids) == ["07", "08"]


@pytest.mark.parametrize("form", ["npz", "lerobot"])
def test_nothing_that_exists_is_touched(
    source: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    assert convert(source, tmp_path / "mine", "--format", form) == 2
    assert "mine exists already" in capsys.readouterr().err
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial/thesis.tex").write_text("years of work")
    assert convert(source, tmp_path / "new", "--format", form) == 2
    assert "new.partial is in the way" in capsys.readouterr().err
    assert len(list(tmp_path.rglob("thesis.tex"))) == 2
    assert convert(source, source / "inside", "--format", form) == 2
    assert "lies inside of" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    assert convert(source, tmp_path / "npz", "--format", "npz") == 2
    error = capsys.readouterr().err
    assert "npz cannot be written (No space left on device); free space" in error
    monkeypatch.setattr("vidwm.data.lerobot_writer._VideoFile.append", full)
    monkeypatch.setattr("vidwm.data.lerobot_writer._VideoFile.close", full)
    assert convert(source, tmp_path / "lerobot") == 2
    assert "lerobot cannot be written (No space left on device)" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("lerobot")]
    monkeypatch.undo()
    for form in ("npz", "lerobot"):
        assert convert(source, tmp_path / form, "--format", form) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lerobot", "npz"]


def test_mixed_sizes_and_broken_rates_cannot_be_lerobot(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(source, tmp_path / "mixed")
    image = np.zeros((5, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "mixed/99.npz", image=image, action=np.zeros((5, 2), np.float32))
    assert convert(tmp_path / "mixed", tmp_path / "new") == 2
    assert (
        "episode 99 has frames of (H, W) (8, 8), those before (24, 36)" in capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mixed"]
    assert convert(tmp_path / "mixed", tmp_path / "new", "--format", "npz") == 0
    facts = tmp_path / "new/convert.json"
    facts.write_text(facts.read_text().replace('"fps": 10.0', '"fps": 7.5'))
    (tmp_path / "new/99.npz").unlink()  # the one of another size
    assert convert(tmp_path / "new", tmp_path / "other") == 2
    assert "has 7.5 frames per second; LeRobot needs a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bridge_rlds", "bair_npz", "metaworld_npz"])
def test_real_recordings(shared: Path, tmp_path: Path, name: str) -> None:
    old = open_dataset(shared / "data" / name)
    assert convert(old.path, tmp_path / "lerobot") == 0
    assert_same(old, open_dataset(tmp_path / "lerobot"), exact=False)
    assert convert(old.path, tmp_path / "npz", "--format", "npz") == 0
    assert_same(old, open_dataset(tmp_path / "npz"), exact=True, ids=True)
