"""npz episodes: both layouts, the action shift of replay buffers, and files that lie."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidwm.data.datasets import open_dataset
from vidwm.errors import UserError

Moving = Callable[..., np.ndarray]


def actions_of(T: int, A: int = 4) -> np.ndarray:
    return np.arange(T * A, dtype=np.float64).reshape(T, A)


def save(folder: Path, name: str = "a.npz", **arrays: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_image_layout(tmp_path: Path, moving: Moving, dtype: Any) -> None:
    frames = moving(5)
    image = (frames / 255).astype(dtype) if dtype == np.float32 else frames.astype(dtype)
    save(tmp_path, image=image, aux1_image=frames[::-1], action=actions_of(5), note="kept")
    dataset = open_dataset(tmp_path)
    assert (dataset.format, dataset.fps, dataset.lengths) == ("npz", 10.0, [5])
    assert dataset.cameras == ("aux1_image", "image") and dataset.camera == "image"
    assert dataset.action_names == ("action_0", "action_1", "action_2", "action_3")
    episode = dataset.episode(0)
    assert (episode.frames.transpose(0, 2, 3, 1) == frames).all()
    assert (episode.actions == actions_of(5)).all()
    other = open_dataset(tmp_path, camera="aux1_image").episode(0)
    assert (other.frames.transpose(0, 2, 3, 1) == frames[::-1]).all()


def test_one_action_fewer_repeats_the_last(tmp_path: Path, moving: Moving) -> None:
    save(tmp_path, image=moving(5), action=actions_of(4))
    assert (open_dataset(tmp_path).episode(0).actions[3:] == actions_of(4)[3]).all()


def test_replay_buffers_store_the_action_that_led_here(tmp_path: Path, moving: Moving) -> None:
    frames = moving(6).transpose(0, 3, 1, 2)
    stacked = np.concatenate([np.roll(frames, 2, 0), np.roll(frames, 1, 0), frames], axis=1)
    actions = actions_of(6)
    save(tmp_path, observation=stacked, action=actions, reward=np.zeros((6, 1)))
    episode = open_dataset(tmp_path).episode(0)
    assert (episode.frames == frames).all()
    assert (episode.actions == actions[[1, 2, 3, 4, 5, 5]]).all()


@pytest.mark.parametrize("key", ["image", "observation"])
def test_a_span_is_a_cut_of_the_episode(tmp_path: Path, moving: Moving, key: str) -> None:
    frames = moving(6) if key == "image" else np.tile(moving(6).transpose(0, 3, 1, 2), (1, 3, 1, 1))
    save(tmp_path, **{key: frames, "action": actions_of(6)})
    dataset = open_dataset(tmp_path)
    whole, cut = dataset.episode(0), dataset.span(0, 2, 5)
    assert (cut.frames == whole.frames[2:5]).all() and (cut.actions == whole.actions[2:5]).all()
    with pytest.raises(ValueError, match="of an episode of 6 frames"):
        dataset.span(0, 3, 7)


def test_files_are_sorted_and_split(tmp_path: Path, moving: Moving) -> None:
    for number, name in enumerate(("val_eps_0.npz", "train_eps_1.npz", "b/train_eps_0.npz")):
        save(tmp_path, name, image=moving(3 + number), action=actions_of(3 + number))
    dataset = open_dataset(tmp_path)
    assert dataset.episode_ids == ["b/train_eps_0", "train_eps_1", "val_eps_0"]
    assert dataset.lengths == [5, 4, 3]
    assert open_dataset(tmp_path, split="train").episode_ids == ["train_eps_1"]
    assert open_dataset(tmp_path, split="b").episode_ids == ["b/train_eps_0"]
    with pytest.raises(UserError, match="holds no npz file of split 'test'"):
        open_dataset(tmp_path, split="test")


def test_a_single_file(tmp_path: Path, moving: Moving) -> None:
    path = save(tmp_path, image=moving(3), action=actions_of(3))
    assert open_dataset(path).episode(0).id == "a"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((3, 8, 8, 3), np.uint8)}, "no array 'action'"),
        ({"action": actions_of(3)}, "lists no camera images"),
        ({"image": np.zeros((3, 8, 8), np.uint8), "action": actions_of(3)}, "no camera images"),
        ({"image": np.zeros((5, 8, 8, 3), np.uint8), "action": actions_of(3)}, "is (3, 4) float64"),
        ({"image": np.zeros((3, 8, 8, 3), np.uint8), "action": np.zeros(3)}, "is (3,) float64"),
        (
            {"observation": np.zeros((3, 9, 8, 8), np.uint8), "action": actions_of(2)},
            "expected numbers (3, A)",
        ),
        (
            {"image": np.zeros((3, 8, 8, 3), np.uint8), "action": np.array([["a"]] * 3)},
            "is (3, 1) <U1",
        ),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    save(tmp_path, **arrays)
    with pytest.raises(UserError, match=r"a\.npz") as caught:
        open_dataset(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((3, 8, 8, 3), 256), "from 256 to 256; expected values from 0 to 255"),
        (np.full((3, 8, 8, 3), -1), "from -1 to -1"),
        (np.full((3, 8, 8, 3), 1.5), "expected values from 0 to 1"),
        (np.full((3, 8, 8, 3), np.nan), "expected values from 0 to 1"),
    ],
)
def test_pixel_ranges(tmp_path: Path, image: np.ndarray, message: str) -> None:
    save(tmp_path, image=image, action=actions_of(3))
    with pytest.raises(UserError, match=r"a\.npz: 'image'") as caught:
        open_dataset(tmp_path).episode(0)
    assert message in str(caught.value)


def test_a_damaged_first_file_describes_nothing(tmp_path: Path, moving: Moving) -> None:
    image = moving(3)
    np.savez(tmp_path / "0.npz", image=image)
    np.savez(tmp_path / "1.npz", image=image, action=np.zeros((3, 2)), state=np.zeros((3, 4)))
    damaged: dict[str, str] = {}
    dataset: Any = open_dataset(tmp_path, damaged=damaged)
    assert list(damaged) == ["0"] and "no array 'action'" in damaged["0"]
    assert len(dataset.action_names) == 2 and len(dataset.state_names) == 4


def test_nan_actions(tmp_path: Path, moving: Moving) -> None:
    actions = actions_of(3)
    actions[1, 2] = np.nan
    save(tmp_path, image=moving(3), action=actions)
    with pytest.raises(UserError, match=r"a\.npz: .*action of frame 1 is NaN"):
        open_dataset(tmp_path).episode(0)


def test_files_of_different_kinds(tmp_path: Path, moving: Moving) -> None:
    save(tmp_path, "a.npz", image=moving(3), action=actions_of(3))
    save(tmp_path, "b.npz", image=moving(3), action=actions_of(3, A=2))
    dataset = open_dataset(tmp_path)
    with pytest.raises(UserError, match=r"b\.npz: 'action' has 2 dimensions, the first file's 4"):
        dataset.episode(1)
    save(tmp_path, "b.npz", picture=moving(3), action=actions_of(3))
    with pytest.raises(UserError, match=r"b\.npz has no images 'image'"):
        open_dataset(tmp_path)


def test_pickles_are_not_opened(tmp_path: Path, moving: Moving) -> None:
    save(tmp_path, image=moving(3), action=np.array([{}, {}, {}], dtype=object))
    with pytest.raises(UserError, match=r"a\.npz: 'action' is \(3,\) object"):
        open_dataset(tmp_path)
    save(tmp_path, image=np.full((3, 8, 8, 3), {}, dtype=object), action=actions_of(3))
    with pytest.raises(UserError, match="no camera images"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 and no more"])
def test_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz is no readable npz file"):
        open_dataset(tmp_path)


def test_truncated(tmp_path: Path, moving: Moving) -> None:
    path = save(tmp_path, image=moving(3), action=actions_of(3))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a\.npz is no readable npz file"):
        open_dataset(tmp_path)


def test_damaged_after_its_header(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    path = save(tmp_path, image=noise, action=actions_of(9))
    content = bytearray(path.read_bytes())
    content[9000:9100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz is no readable npz file"):
        open_dataset(tmp_path).episode(0)


def test_an_array_shorter_than_its_header_says(tmp_path: Path) -> None:
    """A header may claim terabytes; nothing is allocated on its word."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 999, 999, 3), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("image.npy", b"\x93NUMPY\x01\x00" + bytes([len(header), 0]) + header)
    with pytest.raises(UserError, match=r"a\.npz .*array image\.npy is shorter than it says"):
        open_dataset(tmp_path)


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What deflate makes of zeros is small; how large it grows is known before it is read."""
    save(tmp_path, image=np.zeros((99, 64, 64, 3), np.uint8), action=actions_of(99))
    assert len(open_dataset(tmp_path).episode(0)) == 99
    monkeypatch.setattr("os.sysconf", lambda name: 1000)  # a million bytes of memory
    with pytest.raises(UserError, match=r"a\.npz needs 0\.0 GB, but this machine has"):
        open_dataset(tmp_path).episode(0)


def test_more_than_deflate_can_compress(tmp_path: Path, moving: Moving) -> None:
    """The archive's list of members claims sizes too."""
    path = save(tmp_path, image=moving(3), action=actions_of(3))
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (4 * 10**9).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz is no readable npz file"):
        open_dataset(tmp_path)


def test_an_episode_of_no_frames(tmp_path: Path) -> None:
    save(tmp_path, image=np.zeros((0, 8, 8, 3), np.uint8), action=np.zeros((0, 4)))
    with pytest.raises(UserError, match=r"a\.npz"):
        open_dataset(tmp_path)
    save(tmp_path, image=np.zeros((3, 0, 8, 3), np.uint8), action=actions_of(3))
    with pytest.raises(UserError, match=r"a\.npz: Episode a is empty, \(3, 3, 0, 8\); remove it"):
        open_dataset(tmp_path).episode(0)


def test_a_file_that_changes_while_it_is_used(tmp_path: Path, moving: Moving) -> None:
    save(tmp_path, image=moving(3), action=actions_of(3))
    dataset = open_dataset(tmp_path)
    save(tmp_path, image=moving(4), action=actions_of(4))
    with pytest.raises(UserError, match=r"a\.npz has changed since the dataset was opened"):
        dataset.episode(0)


def test_links_that_leave_the_folder(tmp_path: Path, moving: Moving) -> None:
    save(tmp_path, image=moving(3), action=actions_of(3))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.npz").symlink_to("../a.npz")
    with pytest.raises(UserError, match=r"set/a\.npz is a link to .*, outside of"):
        open_dataset(tmp_path / "set")


def test_real_pushing(shared: Path) -> None:
    episode = open_dataset(shared / "data/bair_npz").episode(0)
    assert episode.frames.shape == (30, 3, 64, 64) and episode.frames.max() == 255
    assert episode.actions.shape == (30, 4)


def test_real_replay_buffers(shared: Path) -> None:
    dataset = open_dataset(shared / "data/metaworld_npz")
    assert (len(dataset), set(dataset.lengths)) == (15, {101})
    episode = dataset.episode(0)
    assert episode.frames.shape == (101, 3, 64, 64)
    stored = np.load(shared / f"data/metaworld_npz/{dataset.episode_ids[0]}.npz")["action"]
    assert not stored[0].any() and (episode.actions[:-1] == stored[1:]).all()
