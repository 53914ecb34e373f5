"""HDF5: the three trees come back upright and aligned; a file is never followed out of itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.data.hdf5_files import actions_of, jpeg
from vidwm.data import hdf5_vlen
from vidwm.data.datasets import open_dataset
from vidwm.data.hdf5 import HDF5Dataset
from vidwm.errors import UserError

Moving = Callable[..., np.ndarray]


def test_robomimic(robomimic: Path, moving: Moving) -> None:
    dataset = open_dataset(robomimic)
    assert isinstance(dataset, HDF5Dataset)
    assert (dataset.format, dataset.fps, len(dataset)) == ("hdf5", 25.0, 12)
    assert dataset.cameras == ("agentview_image", "robot0_eye_in_hand_image")
    assert dataset.episode_ids[9:] == ["demo_9", "demo_10", "demo_11"]  # not demo_1, demo_10
    assert dataset.lengths == list(range(4, 16))
    for i in (11, 0):
        episode = dataset.episode(i)
        assert (episode.frames.transpose(0, 2, 3, 1) == moving(4 + i, seed=i)).all()
        assert (episode.actions == actions_of(4 + i)).all()
    wrist = open_dataset(robomimic, camera="robot0_eye_in_hand_image").episode(0)
    assert (wrist.frames.transpose(0, 2, 3, 1) == moving(4)[:, ::-1]).all()


def test_a_folder_of_files(robomimic: Path) -> None:
    assert open_dataset(robomimic.parent).episode_ids[0] == "demos/demo_0"
    assert open_dataset(robomimic.parent, split="train").episode_ids == [
        "demos/demo_1",
        "demos/demo_11",
    ]
    with pytest.raises(UserError, match=r"no split 'test' under mask; it has train, valid"):
        open_dataset(robomimic, split="test")


@pytest.mark.parametrize(
    ("convention", "flipped"), [("opengl", True), ("opencv", False), (None, True)]
)
def test_libero(tmp_path: Path, moving: Moving, convention: str | None, flipped: bool) -> None:
    frames = moving(6)
    with h5py.File(tmp_path / "pick_demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["bddl_file_name"] = "libero/pick.bddl"
        data.attrs["problem_info"] = json.dumps({"language_instruction": "pick  it up"})
        if convention:
            data.attrs["macros_image_convention"] = convention
        data["demo_0/obs/agentview_rgb"] = frames
        data["demo_0/actions"] = actions_of(6)
    dataset = open_dataset(tmp_path)
    episode = dataset.episode(0)
    upright = frames[:, ::-1] if flipped else frames
    assert (episode.frames.transpose(0, 2, 3, 1) == upright).all()
    assert (episode.task, episode.fps) == ("pick it up", 20.0)
    # The picture was taken after the step.
    assert (episode.actions == actions_of(6)[[1, 2, 3, 4, 5, 5]]).all()
    assert isinstance(dataset, HDF5Dataset)
    for start, stop in ((0, 6), (2, 4), (5, 6)):
        cut = dataset.span(0, start, stop)
        assert (cut.actions == episode.actions[start:stop]).all()
        assert (cut.frames == episode.frames[start:stop]).all()


def test_libero_rendered_again_without_its_attributes(tmp_path: Path, moving: Moving) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data/demo_0/obs/agentview_rgb"] = moving(4)
        file["data/demo_0/actions"] = actions_of(4)
    episode = open_dataset(tmp_path / "a.h5").episode(0)
    assert (episode.frames.transpose(0, 2, 3, 1) == moving(4)[:, ::-1]).all()
    assert (episode.actions == actions_of(4)).all()


def test_aloha(aloha: Path, moving: Moving) -> None:
    dataset = open_dataset(aloha)
    assert dataset.episode_ids == ["episode_2", "episode_9", "episode_10"]
    assert (dataset.lengths, dataset.fps) == ([5, 6, 7], 50.0)
    assert len(dataset.action_names) == 14
    for i in range(3):
        episode, frames = dataset.episode(i), moving(5 + i, 48, 64, seed=i)
        error = np.abs(episode.frames.transpose(0, 2, 3, 1).astype(int) - frames).mean()
        assert error == 0 if i == 0 else error < 3
        assert (episode.actions == actions_of(5 + i, 14)).all()
        assert isinstance(dataset, HDF5Dataset)
        assert (dataset.span(i, 2, 4).frames == episode.frames[2:4]).all()
    with pytest.raises(UserError, match=r"no split 'train'; ALOHA files have none"):
        open_dataset(aloha, split="train")
    assert open_dataset(aloha / "episode_9.hdf5").episode_ids == ["episode_9"]


def test_images_as_strings_of_bytes(tmp_path: Path, moving: Moving) -> None:
    frames = moving(4, 48, 64)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["observations/images/top"] = np.array([jpeg(frame) for frame in frames])  # dtype S
        file["action"] = actions_of(4)
    episode = open_dataset(tmp_path).episode(0)
    assert np.abs(episode.frames.transpose(0, 2, 3, 1).astype(int) - frames).mean() < 3


def test_one_action_fewer_repeats_the_last(tmp_path: Path, moving: Moving) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["observations/images/top"] = moving(4)
        file["action"] = actions_of(3)
    assert (open_dataset(tmp_path).episode(0).actions == actions_of(3)[[0, 1, 2, 2]]).all()


def remove_obs(file: h5py.File) -> None:
    del file["data/demo_0/obs"]


def replace(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


def external_storage(file: h5py.File) -> None:
    del file["data/demo_3/actions"]
    file.create_dataset(
        "data/demo_3/actions", (7, 4), "f8", external=[("/etc/passwd", 0, 7 * 4 * 8)]
    )


def virtual(file: h5py.File) -> None:
    del file["data/demo_3/actions"]
    layout = h5py.VirtualLayout((7, 4), "f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (7, 4))
    file.create_virtual_dataset("data/demo_3/actions", layout)


def never_written(file: h5py.File) -> None:
    del file["data/demo_3/obs/agentview_image"]
    file.create_dataset(
        "data/demo_3/obs/agentview_image", (10**9, 999, 999, 3), "u1", chunks=(1, 9, 9, 3)
    )


def bomb_of_a_chunk(file: h5py.File) -> None:
    del file["data/demo_3/actions"]
    array = file.create_dataset(
        "data/demo_3/actions", (7, 4), "f8", maxshape=(None, None), chunks=(2**14, 2**13)
    )
    array.id.write_direct_chunk((0, 0), b"x" * 99, filter_mask=0)


def strange_filter(file: h5py.File) -> None:
    del file["data/demo_3/actions"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((7, 4))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((7, 4))
    name = b"data/demo_3/actions"
    h5py.h5d.create(file.id, name, h5py.h5t.IEEE_F64LE, space, properties)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_obs, "episode data/demo_0 has no group 'obs' of images; render them first"),
        (replace("data", 3.0), "is no HDF5 file of robot episodes; looked for"),
        (replace("data/demo_3/obs/agentview_image", 1), "episode data/demo_3 has no images obs/"),
        (
            replace("data/demo_3/obs/agentview_image", np.zeros((0, 8, 8, 3), np.uint8)),
            "data/demo_3 has no images",
        ),
        (replace("data/demo_3/actions", np.zeros((7, 3))), "is (7, 3) float64 for 7 frames"),
        (replace("data/demo_3/actions", np.zeros((5, 4))), "expected numbers (7, 4)"),
        (replace("data/demo_3/actions", np.full((7, 4), b"x")), "expected numbers (7, 4)"),
        (replace("data/demo_3/actions", np.full((7, 4), np.nan)), "action of frame 0 is NaN"),
        (
            replace("data/demo_3/actions", h5py.ExternalLink("other.h5", "/x")),
            "/data/demo_3/actions is a link to another file",
        ),
        (replace("data/demo_3", h5py.ExternalLink("/etc/passwd", "/")), "link to another file"),
        (
            replace("data/demo_3/actions", h5py.SoftLink("/data/demo_3/actions")),
            "is a link that leads in circles",
        ),
        (replace("data/demo_3/actions", h5py.SoftLink("/nothing")), "no array 'actions'"),
        (external_storage, "keeps its data in other files"),
        (virtual, "keeps its data in other files"),
        (never_written, "bytes, but stores 0; the file is damaged"),
        (bomb_of_a_chunk, "claims 1073741824 bytes, but stores"),
        (strange_filter, "is compressed by filter 32015"),
    ],
)
def test_what_is_wrong_is_named(
    robomimic: Path, change: Callable[[h5py.File], None], message: str
) -> None:
    with h5py.File(robomimic, "a") as file:
        change(file)
    with pytest.raises(UserError, match=r"demos\.hdf5") as caught:
        open_dataset(robomimic).episode(3)
    assert message in str(caught.value)


def test_links_within_the_file_are_followed(robomimic: Path) -> None:
    with h5py.File(robomimic, "a") as file:
        file["data/demo_3/actions"].parent.move("actions", "stored")
        file["data/demo_3/actions"] = h5py.SoftLink("stored")
    assert (open_dataset(robomimic).episode(3).actions == actions_of(7)).all()


def test_no_episode(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("data")
    with pytest.raises(UserError, match="group data holds no episode"):
        open_dataset(tmp_path)


def test_files_of_two_kinds(robomimic: Path, aloha: Path) -> None:
    (aloha / "episode_2.hdf5").rename(robomimic.parent / "episode_2.hdf5")
    with pytest.raises(UserError, match=r"episode_2\.hdf5 is of the ALOHA kind with 50"):
        open_dataset(robomimic.parent)


def test_an_image_that_does_not_decode(aloha: Path) -> None:
    with h5py.File(aloha / "episode_9.hdf5", "a") as file:
        file["observations/images/cam_high"][3] = 0
    with pytest.raises(UserError, match=r"episode_9\.hdf5, .*image of frame 3 cannot be decoded"):
        open_dataset(aloha).episode(1)


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n and no more"])
def test_no_hdf5(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.hdf5").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.hdf5 is no readable HDF5 file"):
        open_dataset(tmp_path)


def test_truncated(robomimic: Path) -> None:
    content = robomimic.read_bytes()
    robomimic.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"demos\.hdf5 is no readable HDF5 file"):
        open_dataset(robomimic)


def test_more_than_the_memory(robomimic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    with pytest.raises(UserError, match=r"episode data/demo_0 needs .* GB, but this machine has"):
        open_dataset(robomimic).episode(0)


def damage_heaps(path: Path) -> None:
    """Make the second object of every global heap end where it begins: HDF5 walks it for ever."""
    content = bytearray(path.read_bytes())
    heap = content.find(b"GCOL")
    assert heap > 0
    while heap > 0:
        size = int.from_bytes(content[heap + 24 : heap + 32], "little")
        following = heap + 16 + 16 + -(-size // 8) * 8
        content[following + 8 : following + 16] = (2**64 - 16).to_bytes(8, "little")
        heap = content.find(b"GCOL", heap + 1)
    path.write_bytes(content)


def test_a_text_that_the_library_never_comes_back_from(
    tmp_path: Path, moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.h5", "b.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["data/demo_0/obs/front"] = moving(3)
            file["data/demo_0/actions"] = actions_of(3)
            file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 5}})
    assert open_dataset(tmp_path).fps == 5
    damage_heaps(tmp_path / "b.h5")
    monkeypatch.setattr(hdf5_vlen, "SECONDS", 1.0)
    with pytest.raises(UserError, match=r"b\.h5 is no readable HDF5 file \(the texts"):
        open_dataset(tmp_path)


def test_images_that_the_library_never_comes_back_from(
    aloha: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage_heaps(aloha / "episode_10.hdf5")
    monkeypatch.setattr(hdf5_vlen, "SECONDS", 2.0)
    dataset = open_dataset(aloha)
    with pytest.raises(UserError, match=r"episode_10\.hdf5, .*images .* cannot be read"):
        dataset.episode(2)
