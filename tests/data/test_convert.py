"""`vidwm data convert`: actions to the last bit, frames exactly or nearly; a kill does no harm."""

from __future__ import annotations

import errno
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidwm.cli import main
from vidwm.data import convert as conversion
from vidwm.data.clip import EpisodeDataset
from vidwm.data.datasets import open_dataset
from vidwm.data.facts import states_of
from vidwm.data.lerobot_writer import LeRobotWriter
from vidwm.data_config import ConvertConfig

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


@pytest.fixture()
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three episodes a LeRobot file, as in `SLOW`."""
    pieces = partial(LeRobotWriter, episodes_per_video=3)
    monkeypatch.setattr(conversion, "LeRobotWriter", pieces)


SLOW = """
import sys, time
from functools import partial
from vidwm.cli import main
from vidwm.data import convert
numbers = convert._numbers
def slow(*words, **named):
    for number in numbers(*words, **named):
        if number == 5:
            print("ready", flush=True)
            time.sleep(60)
        yield number
convert._numbers = slow
convert.LeRobotWriter = partial(convert.LeRobotWriter, episodes_per_video=3)
main(["data", "convert", *sys.argv[1:]])
"""


def times(folder: Path, pattern: str) -> dict[Path, int]:
    """When the files were written, by their place in the folder."""
    files = filter(Path.is_file, folder.rglob(pattern))
    return {file.relative_to(folder): file.stat().st_mtime_ns for file in files}


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize(
    ("form", "whole", "count"), [("npz", "*.npz", 5), ("lerobot", "*-000.*", 3)]
)
def test_a_killed_conversion_ends_as_an_undisturbed_one(
    source: Path, tmp_path: Path, form: str, whole: str, count: int
) -> None:
    words = [source, tmp_path / "new", "--format", form]
    assert convert(source, tmp_path / "straight", "--format", form) == 0
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    assert convert(*words) == 2  # the other one still runs
    child.kill()
    child.wait()
    left = times(tmp_path / "new.partial", whole)
    assert not (tmp_path / "new").exists() and len(left) == count
    assert convert(*words) == 0
    assert tree(tmp_path / "new") == tree(tmp_path / "straight")
    assert times(tmp_path / "new", whole).items() >= left.items()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "straight"]


def interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions stop at the fourth episode."""
    numbers = conversion._numbers

    def three(dataset: EpisodeDataset, first: int = 0) -> Iterator[int]:
        for number in numbers(dataset, first):
            if number == 3:
                raise KeyboardInterrupt
            yield number

    monkeypatch.setattr(conversion, "_numbers", three)


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("form", ["npz", "lerobot"])
def test_what_was_begun_otherwise_is_not_gone_on_with(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = Path(shutil.copytree(source, tmp_path / "data"))
    words = [data, tmp_path / "new", "--format", form]
    with monkeypatch.context() as patch:
        interrupt(patch)
        assert convert(*words) == 130
    left = tree(tmp_path / "new.partial")
    assert len(left) == 3
    (tmp_path / "list.json").write_text('["07", "08"]')
    assert convert(*words, "--episodes", tmp_path / "list.json", "--crf", "9") == 2
    assert (
        "new.partial is of a conversion that was begun with other episodes and crf; repeat th"
        in (capsys.readouterr().err)
    )
    old = (data / "09.npz").stat()
    os.utime(data / "09.npz", ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    assert convert(*words) == 2
    assert "begun with other recordings; " in capsys.readouterr().err
    os.utime(data / "09.npz", ns=(old.st_atime_ns, old.st_mtime_ns))
    assert tree(tmp_path / "new.partial") == left
    assert convert(*words) == 0


def test_other_settings_of_a_part_are_not_gone_on_with(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [tmp_path / "mix.json", tmp_path / "new", "--format", "npz"]

    def mix(weight: float, **settings: object) -> None:
        late = {"data": str(source), "discrete_actions": ["action_1"]} | settings
        parts = {"a": {"data": str(source), "weight": weight}, "late": late}
        (tmp_path / "mix.json").write_text(json.dumps(parts))

    mix(1, action_shift=1)
    with monkeypatch.context() as patch:
        interrupt(patch)
        assert convert(*words) == 130
    for settings in ({"action_shift": 0}, {"action_shift": 1, "action_form": "delta"}):
        mix(1, **settings)
        assert convert(*words) == 2
        assert "begun with other settings of parts; repeat" in capsys.readouterr().err
    mix(2, action_shift=1)  # nothing that is written depends on a weight
    assert convert(*words) == 0


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
    (tmp_path / "uv.lock").write_text("[[package]]")
    assert convert(source, tmp_path / "uv", "--format", form) == 0
    (tmp_path / "other.partial.lock").write_text("[[package]]")
    assert convert(source, tmp_path / "other", "--format", form) == 2
    assert "other.partial.lock is in the way" in capsys.readouterr().err
    assert [file.read_text() for file in tmp_path.glob("*.lock")] == ["[[package]]"] * 2


def test_nothing_is_written_into_recordings(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "mix.json").write_text(json.dumps({"a": {"data": str(tmp_path / "link")}}))
    before = tree(source)
    for data, target in (
        (source, source / "inside"),
        (source, tmp_path / "link/inside"),
        (source, tmp_path / "link/../source/inside"),
        (tmp_path / "mix.json", source / "inside"),
    ):
        assert convert(data, target, "--format", "npz") == 2
        assert "lies inside of" in capsys.readouterr().err
    assert tree(source) == before


def test_who_waited_for_another_says_so(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    opened = conversion.open_recordings

    def late(config: ConvertConfig) -> EpisodeDataset:
        (tmp_path / "new").mkdir()  # by another process, since it was looked for
        return opened(config)

    monkeypatch.setattr(conversion, "open_recordings", late)
    assert convert(source, tmp_path / "new", "--format", "npz") == 2
    assert "new exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize(
    ("form", "write", "whole"),
    [
        ("npz", "numpy.savez_compressed", "*.npz"),
        ("lerobot", "vidwm.data.lerobot_piece._VideoFile.append", "*-000.*"),
        ("lerobot", "vidwm.data.lerobot_piece._VideoFile.close", "*-000.*"),
        ("lerobot", "pyarrow.parquet.write_table", "*-000.*"),
    ],
)
def test_a_full_disk_is_one_sentence_and_what_is_whole_stays(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, write: str,
    whole: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert convert(source, tmp_path / "straight", "--format", form) == 0
    words = [source, tmp_path / "new", "--format", form]
    module, _, name = write.rpartition(".")
    original = getattr(pkgutil.resolve_name(module), name)
    left = 1 if name in ("close", "write_table") else 4

    def full(*words: Any, **named: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*words, **named)

    with monkeypatch.context() as patch:
        patch.setattr(write, full)
        capsys.readouterr()
        assert convert(*words) == 2
        assert re.fullmatch(
            r"vidwm: error: \S+new cannot be written \(No space left on device\); free space or "
            r"choose another folder, and run the same command again\.\n",
            capsys.readouterr().err,
        )
    kept = times(tmp_path / "new.partial", "*.*")
    assert kept == times(tmp_path / "new.partial", whole) and len(kept) == (
        4 if form == "npz" else 3
    )
    assert convert(*words) == 0
    assert times(tmp_path / "new", whole).items() >= kept.items()
    assert tree(tmp_path / "new") == tree(tmp_path / "straight")


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
