"""Videos and actions by a manifest: every way to write them, and every way to get them wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidwm.data import manifest as manifest_module
from vidwm.data.datasets import open_dataset
from vidwm.data.manifest import ManifestDataset
from vidwm.data.video import write_video
from vidwm.errors import UserError

Moving = Callable[..., np.ndarray]
Write = Callable[..., Path]


def actions_of(T: int, A: int = 3) -> np.ndarray:
    return np.arange(T * A, dtype=np.float32).reshape(T, A)


@pytest.fixture()
def root(tmp_path: Path, moving: Moving) -> Path:
    """Three videos of 6, 7 and 8 frames, and their actions in a file of each kind."""
    (tmp_path / "rig/videos").mkdir(parents=True)
    for i, name in enumerate("abc"):
        write_video(tmp_path / f"rig/videos/{name}.mp4", moving(6 + i, seed=i), 10)
    np.save(tmp_path / "rig/a.npy", actions_of(6))
    with (tmp_path / "rig/b.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["dx", "dy", "grip"], *actions_of(7).tolist()])
    (tmp_path / "rig/c.json").write_text(json.dumps({"actions": actions_of(8).tolist()}))
    return tmp_path / "rig"


@pytest.fixture()
def write(root: Path) -> Write:
    """write(rows...): a manifest.jsonl of these rows; returns its folder."""

    def make(*rows: dict[str, Any]) -> Path:
        lines = [json.dumps(row) + "\n" for row in rows]
        (root / "manifest.jsonl").write_text("".join(lines))
        return root

    return make


def row(name: str = "a", **values: Any) -> dict[str, Any]:
    suffix = {"a": "npy", "b": "csv", "c": "json"}[name]
    return {"video": f"videos/{name}.mp4", "actions": f"{name}.{suffix}", **values}


def test_json_lines(write: Write, moving: Moving) -> None:
    rows = [row("a", task="push", id="first"), row("b"), row("c")]
    dataset = open_dataset(write(*rows))
    assert isinstance(dataset, ManifestDataset)
    assert (dataset.format, dataset.fps, dataset.lengths) == ("manifest", 10.0, [6, 7, 8])
    assert dataset.episode_ids == ["first", "videos/b", "videos/c"]
    assert (dataset.cameras, dataset.camera) == (("video",), "video")
    for i in (2, 0, 1):
        episode = dataset.episode(i)
        error = np.abs(episode.frames.transpose(0, 2, 3, 1).astype(int) - moving(6 + i, seed=i))
        assert error.mean() < 3
        assert (episode.actions == actions_of(6 + i)).all()
    assert (dataset.episode(0).task, dataset.episode(1).task) == ("push", "")


def test_csv(root: Path) -> None:
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "actions", "fps", "start", "end", "split"])
        writer.writerow(["videos/b.mp4", "b.csv", "10.0", "", "", "train"])
        writer.writerow(["videos/a.mp4", json.dumps(actions_of(2).tolist()), "", "2", "4", "test"])
    dataset = open_dataset(root)
    assert dataset.action_names == ("dx", "dy", "grip")
    assert (dataset.lengths, dataset.episode_ids) == ([7, 2], ["videos/b", "videos/a-2"])
    assert (dataset.episode(1).actions == actions_of(2)).all()
    assert open_dataset(root / "manifest.csv", split="test").episode_ids == ["videos/a-2"]
    with pytest.raises(UserError, match="no split 'val'; column 'split' has test, train"):
        open_dataset(root, split="val")


def test_a_cut_of_a_video(write: Write, moving: Moving) -> None:
    """Actions are the cut's own, or a row for every frame of the video."""
    dataset = ManifestDataset(
        write(
            row("c", start=2, end=6),
            row("c", start=3, end=6, actions=actions_of(3).tolist()),
            row("c", start=4, end=8, actions=actions_of(3).tolist()),
            row("c", start=5, actions=actions_of(3).tolist()),
        )
        / "manifest.jsonl"
    )
    assert dataset.lengths == [4, 3, 4, 3]
    assert (dataset.episode(0).actions == actions_of(8)[2:6]).all()
    assert (dataset.episode(1).actions == actions_of(3)).all()
    assert (dataset.episode(2).actions == actions_of(3)[[0, 1, 2, 2]]).all()
    whole = ManifestDataset(write(row("c")) / "manifest.jsonl").episode(0)
    assert (dataset.episode(0).frames == whole.frames[2:6]).all()
    cut = dataset.span(0, 1, 3)
    assert (cut.frames == whole.frames[3:5]).all() and (cut.actions == whole.actions[3:5]).all()


def test_several_cameras(write: Write, moving: Moving) -> None:
    both = {"video.top": "videos/a.mp4", "video.wrist": "videos/b.mp4", "actions": "a.npy"}
    root = write(both)
    assert open_dataset(root).cameras == ("top", "wrist")
    wrist = open_dataset(root, camera="wrist")
    assert (wrist.episode(0).actions == actions_of(6)[[0, 1, 2, 3, 4, 5, 5]]).all()
    write(both, {"video.top": "videos/c.mp4", "actions": "c.json"})
    assert open_dataset(root, camera="top").lengths == [6, 8]
    with pytest.raises(UserError, match="line 2 names no video of camera 'wrist'"):
        open_dataset(root, camera="wrist")


def test_videos_stay_closed_where_the_manifest_says_all(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_module, "video_facts", None)
    assert open_dataset(write(row(fps=10, end=6))).lengths == [6]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "lists no episode"),
        ([{"actions": "a.npy"}], "line 1 names no video"),
        ([{"video": "videos/a.mp4"}], "column 'actions' must name a file"),
        ([row(stop=4)], "column 'stop' is not known; expected video, actions"),
        ([row(video="videos/none.mp4")], "none.mp4 does not exist"),
        ([row(video="videos/none.mp4", fps=10, end=3)], "none.mp4 does not exist"),
        ([row(video="../a.mp4")], "names the file '../a.mp4', which lies outside"),
        ([row(actions="/etc/passwd")], "lies outside"),
        ([row(video=7)], "column 'video' must name a file"),
        ([row(video="a.npy")], "a.npy"),
        ([row(actions="none.npy")], "none.npy does not exist"),
        ([row(actions="videos/a.mp4")], "expected a .csv, .npy or .json file"),
        ([row(actions=[])], "must be rows of numbers"),
        ([row(actions=[[1], [2, 3]])], "must be rows of numbers"),
        ([row(actions=[["a"]] * 6)], "must be rows of numbers"),
        ([row(actions=[[]] * 6)], "must be rows of numbers"),
        ([row(actions="[[1")], "column 'actions' is not readable"),
        ([row(actions=[[1.0]] * 3)], "3 rows of actions for 6 frames"),
        ([row(actions=[[float("nan")]] * 6)], "action of frame 0 is NaN"),
        ([row(end=0)], "end 0 is not after start 0"),
        ([row(start=3, end=3)], "end 3 is not after start 3"),
        ([row(start=-1)], "start is '-1'; expected the number of a frame"),
        ([row(end=1.5)], "end is '1.5'"),
        ([row(end=7)], "frames 0 to 6 are asked of"),
        ([row(end=10**8, fps=10)], "holds at most"),
        ([row(end=10**30)], "expected the number of a frame"),
        ([row(start=6)], "frames 6 to 5"),
        ([row(fps=0)], "fps is '0'"),
        ([row(fps="fast")], "fps is 'fast'"),
        ([row(fps=30)], "has no frame 1 "),
        ([row(fps=5)], "shows two frames as frame"),
        ([row(), row()], "line 2: the id 'videos/a' is that of line 1 too"),
        ([row(end=6, fps=10), row("b", end=7, fps=20)], "line 2: 20 frames per second, but"),
    ],
)
def test_what_is_wrong_is_named(write: Write, rows: list[dict[str, Any]], message: str) -> None:
    root = write(*rows)
    with pytest.raises(UserError, match="rig/") as caught:
        open_dataset(root).episode(0)
    assert message in str(caught.value)


def test_actions_of_another_size(write: Write) -> None:
    dataset = open_dataset(write(row(), row("b", actions=actions_of(7, 2).tolist())))
    with pytest.raises(UserError, match=r"line 2: 2 numbers a row, but the first .* have 3"):
        dataset.episode(1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"", "is no readable npy file"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': 'O'}  ", "is no readable npy file"),
        ("b.csv", b"", "is empty"),
        ("b.csv", b"x,y\n1,2\n3,?\n", "row 1 of the actions is not all numbers"),
        ("b.csv", b'"', "is no readable CSV file"),
        ("b.csv", b"\xff\xfe\x00", "is no readable CSV file"),
        ("c.json", b"{", "is not readable JSON"),
        ("c.json", b"{}", "must be rows of numbers"),
    ],
)
def test_files_of_actions_that_cannot_be_read(
    write: Write, root: Path, name: str, content: bytes, message: str
) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
        open_dataset(write(row(name[0]))).episode(0)
    assert message in str(caught.value)


def test_an_array_larger_than_its_file_is_not_allocated(write: Write, root: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3), }"
    header += b" " * (117 - len(header)) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (root / "a.npy").write_bytes(content + bytes(99))
    with pytest.raises(UserError, match=r"a\.npy is no readable npy .* shorter than it says"):
        open_dataset(write(row()))


def test_pickled_actions_are_not_opened(write: Write, root: Path) -> None:
    np.save(root / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npy is no readable npy .* pickle"):
        open_dataset(write(row()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,actions\nvideos/a.mp4\n", "line 2 has another number of cells"),
        ("video,actions\nvideos/a.mp4,a.npy,7\n", "line 2 has another number of cells"),
        ("video,actions\n", "lists no episode"),
        ("", "lists no episode"),
        ('video,actions\n"videos', "is no readable CSV file"),
        (f"video,actions\nvideos/a.mp4,{'1' * 200_000}\n", "is no readable CSV file"),
    ],
)
def test_csv_manifests_that_cannot_be_read(root: Path, text: str, message: str) -> None:
    (root / "manifest.csv").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.csv") as caught:
        open_dataset(root)
    assert message in str(caught.value)


def test_links_that_leave_the_folder(write: Write, root: Path) -> None:
    (root / "videos/a.mp4").rename(root.parent / "a.mp4")
    (root / "videos/a.mp4").symlink_to(root.parent / "a.mp4")
    with pytest.raises(UserError, match=r"a\.mp4 is a link to .*, outside of"):
        open_dataset(write(row()))


def test_truncated_videos(write: Write, root: Path) -> None:
    content = (root / "videos/b.mp4").read_bytes()
    (root / "videos/b.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"b\.mp4 cannot be opened"):
        open_dataset(write(row(), row("b")))
    dataset = open_dataset(write(row(), row("b", fps=10, end=7)))
    assert len(dataset.episode(0)) == 6
    with pytest.raises(UserError, match=r"b\.mp4 cannot be read"):
        dataset.episode(1)
