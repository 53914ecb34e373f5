"""RLDS: real and hand-written records, and every way they can be damaged."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.rlds_files import SHARD, episode_features, png, tensor
from vidwm.data.datasets import open_dataset
from vidwm.errors import UserError

Moving = Callable[..., np.ndarray]
Example = Callable[[dict[str, Any]], bytes]
TFRecord = Callable[[Sequence[bytes]], bytes]
EditJson = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def test_episodes_come_back(toy: Path, tmp_path: Path, moving: Moving) -> None:
    dataset = open_dataset(tmp_path)  # two folders above
    assert (dataset.format, dataset.path, dataset.fps) == ("rlds", toy, 10.0)
    assert dataset.episode_ids == ["train-00000-00000", "train-00000-00001", "train-00001-00000"]
    assert dataset.lengths == [4, 5, 6]
    assert dataset.cameras == ("front", "wrist")  # depth is no camera
    # A dict of actions in alphabetical order of its keys.
    assert dataset.action_names == (
        *("action_arm_0", "action_stop_0", "action_stop_1", "action_stop_2"),
        *("action_world_0", "action_world_1"),
    )
    for i in (2, 0, 1):
        episode, frames = dataset.episode(i), moving(4 + i, seed=i)
        assert (episode.frames.transpose(0, 2, 3, 1) == frames).all()
        assert episode.task == f"do {i}"
        assert episode.actions[3].tolist() == [100 * i + 3.5, -1, 0, 1, 100 * i + 3, -100 * i - 3]
    wrist = open_dataset(tmp_path, camera="wrist").episode(0)
    assert (wrist.frames.transpose(0, 2, 3, 1) == moving(4)[:, ::-1]).all()


def test_a_span_is_a_cut_of_the_episode(toy: Path) -> None:
    dataset = open_dataset(toy)
    whole, cut = dataset.episode(2), dataset.span(2, 1, 4)
    assert (cut.frames == whole.frames[1:4]).all() and (cut.actions == whole.actions[1:4]).all()
    with pytest.raises(ValueError, match="of an episode of 6 frames"):
        dataset.span(2, 5, 7)


@pytest.mark.parametrize(("name", "fps"), [("bridge_dataset", 5), ("fractal20220817_data", 3)])
def test_fps_table(toy: Path, edit_json: EditJson, name: str, fps: float) -> None:
    def rename(info: dict[str, Any]) -> None:
        info["name"] = name
        info["splits"][1]["filepathTemplate"] = "toy-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"

    edit_json(toy / "dataset_info.json", rename)
    assert open_dataset(toy).fps == fps


def test_splits(toy: Path) -> None:
    with pytest.raises(UserError, match=r"toy-test\.tfrecord-00000-of-00001 does not exist"):
        open_dataset(toy, split="test")
    with pytest.raises(UserError, match="no split 'val'; expected one of test, train"):
        open_dataset(toy, split="val")


def test_an_absent_shard(toy: Path) -> None:
    (toy / SHARD.format(1)).unlink()
    with pytest.raises(UserError, match=r"tfrecord-00001-of-00002 does not exist"):
        open_dataset(toy)


def test_several_versions(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy, toy.parent / "2.0.0")
    with pytest.raises(UserError, match=r"several RLDS .*toy/1\.0\.0, toy/2\.0\.0"):
        open_dataset(tmp_path)
    assert len(open_dataset(toy)) == 3


@pytest.mark.parametrize("keep", [5, 13, 300, -2, -20])
def test_truncated_shard(toy: Path, keep: int) -> None:
    file = toy / SHARD.format(0)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"of-00002 is damaged at byte \d+: .*(ends|claims)"):
        open_dataset(toy)


def test_shard_cut_between_records(toy: Path) -> None:
    file = toy / SHARD.format(0)
    content = file.read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    file.write_bytes(content[: 16 + size])
    with pytest.raises(UserError, match=r"holds 1 episodes, but dataset_info\.json says 2"):
        open_dataset(toy)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="holds 0 episodes"):
        open_dataset(toy)


def test_shard_cut_after_it_was_opened(toy: Path) -> None:
    dataset = open_dataset(toy)
    file = toy / SHARD.format(0)
    file.write_bytes(file.read_bytes()[:-20])
    assert len(dataset.episode(0)) == 4
    with pytest.raises(UserError, match="the file ends inside a record"):
        dataset.episode(1)


def test_flipped_bits(toy: Path) -> None:
    file = toy / SHARD.format(0)
    content = file.read_bytes()
    for place, message in ((3, "record's length"), (2000, "record's contents")):
        broken = bytearray(content)
        broken[place] ^= 4
        file.write_bytes(broken)
        with pytest.raises(UserError, match=f"the checksum of the {message} is wrong"):
            open_dataset(toy).episode(0)


@pytest.mark.parametrize("size", [2**40, 2**64 - 1, 10_000])
def test_a_record_cannot_claim_more_than_the_file(toy: Path, tfrecord: TFRecord, size: int) -> None:
    """The length's own checksum is right: only the size of the file gives it away."""
    length = struct.pack("<Q", size)
    checksum = tfrecord([length])[-4:]
    (toy / SHARD.format(0)).write_bytes(length + checksum + bytes(100))
    with pytest.raises(UserError, match=f"claims {size} bytes, but 96 are left"):
        open_dataset(toy)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff" * 40,  # a number without an end
        b"\x0a\xff\xff\xff\xff\x0f",  # a message of 4 GB
        b"\x0b",  # a group, which protobuf 3 has not
        b"\x08\x01",  # a number for a message
        b"\x0a\x02\x08\x01",
        b"\x0a\x04\x0a\x02\x08\x01",  # a map entry whose key is a number
        b"\x0a\x05\x0a\x03\x0a\x01\xff",  # a key that is no UTF-8
        b"",
    ],
)
def test_records_that_are_no_example(write: Callable[..., Path], payload: bytes) -> None:
    write([[payload], []])
    with pytest.raises(UserError, match="is damaged at byte 12: no feature"):
        open_dataset(write([[payload], []]))


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.pop(key)


def shorten(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({key: content[key][:-1]})


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("steps/action/world"), "does not match features.json"),
        (without("steps/observation/front"), "does not match features.json"),
        (shorten("steps/action/world"), "does not match features.json"),
        (shorten("steps/observation/front"), "3 images of camera 'front' for 4 actions"),
        (put("steps/observation/front", [b"no image"] * 4), "image of frame 0 cannot be decoded"),
        (put("steps/action/arm", [1.0, float("nan"), 1.0, 1.0]), "action of frame 1 is NaN"),
    ],
)
def test_episodes_that_do_not_fit(
    write: Callable[..., Path], example: Example, moving: Moving, change: Any, message: str
) -> None:
    content = episode_features(moving(4), 0)
    change(content)
    dataset = open_dataset(write([[example(content)], []]))
    with pytest.raises(UserError, match=r"of-00002, record train-00000-00000") as caught:
        dataset.episode(0)
    assert message in str(caught.value)


def test_an_episode_without_steps(write: Callable[..., Path], example: Example) -> None:
    empty = example({"steps/action/arm": np.zeros(0, np.float32)})
    with pytest.raises(UserError, match="0 numbers under 'steps/action/arm', 1 a step"):
        open_dataset(write([[empty], []]))


def test_images_of_two_sizes(write: Callable[..., Path], example: Example, moving: Moving) -> None:
    content = episode_features(moving(4), 0)
    content["steps/observation/front"][2] = png(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(UserError, match=r"image of frame 2 has \(9, 9\) pixels"):
        open_dataset(write([[example(content)], []])).episode(0)


@pytest.mark.parametrize(
    "action",
    [tensor(-1), tensor(0), tensor(2, encoding="zlib"), tensor(dtype="string"), {"text": {}}],
)
def test_actions_that_cannot_be_read(write: Callable[..., Path], action: Any) -> None:
    with pytest.raises(UserError, match=r"features\.json (lacks|lists)"):
        open_dataset(write([[], []], action=action))


def test_no_episode(write: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="split 'train' holds no episode"):
        open_dataset(write([[], []]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("fileFormat", "array_record"), "fileFormat 'array_record'; only 'tfrecord'"),
        (without("splits"), "lacks or misstates 'splits'"),
        (put("splits", {"train": 3}), "lacks or misstates"),
        (put("splits", [{"name": "train", "shardLengths": ["x"]}]), "lacks or misstates"),
        (put("name", "../../../etc"), "lies outside"),
        (
            put("splits", [{"name": "train", "shardLengths": [1], "filepathTemplate": "/etc/x"}]),
            "lies outside",
        ),
    ],
)
def test_broken_dataset_info(toy: Path, edit_json: EditJson, change: Any, message: str) -> None:
    edit_json(toy / "dataset_info.json", change)
    with pytest.raises(UserError, match=r"dataset_info\.json") as caught:
        open_dataset(toy)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["{}", '{"featuresDict": {"features": []}}', "nonsense", "[]"])
def test_broken_features(toy: Path, content: str) -> None:
    (toy / "features.json").write_text(content)
    with pytest.raises(UserError, match=r"features\.json"):
        open_dataset(toy)


def test_unpacked_numbers(write: Callable[..., Path], example: Example, moving: Moving) -> None:
    """Old writers put each number in a field of its own."""
    content = episode_features(moving(2), 0)
    del content["steps/action/world"]
    floats = b"".join(b"\x0d" + struct.pack("<f", x) for x in (1, 2, 3, 4))
    ints = b"".join(b"\x08" + bytes([x]) for x in (5, 6, 7, 1, 2, 3))
    key = "steps/action/{}".format
    extra = entry(key("world"), b"\x12", floats) + entry(key("stop"), b"\x1a", ints)
    del content["steps/action/stop"]
    payload = example(content)
    episode = open_dataset(write([[payload + b"\x0a" + bytes([len(extra)]) + extra], []])).episode(
        0
    )
    assert episode.actions[:, 1:].tolist() == [[5, 6, 7, 1, 2], [1, 2, 3, 3, 4]]


def entry(key: str, tag: bytes, values: bytes) -> bytes:
    feature = tag + bytes([len(values)]) + values
    pair = b"\x0a" + bytes([len(key)]) + key.encode() + b"\x12" + bytes([len(feature)]) + feature
    return b"\x0a" + bytes([len(pair)]) + pair


def test_real_bridge(shared: Path) -> None:
    root = shared / "data/bridge_rlds"
    dataset = open_dataset(root)
    assert (len(dataset), set(dataset.lengths), dataset.fps) == (25, {10}, 5.0)
    assert dataset.cameras == ("image_0", "image_1", "image_2", "image_3")
    tasks = set()
    for i in range(25):
        episode = dataset.episode(i)
        assert episode.frames.shape == (10, 3, 64, 64) and episode.actions.shape == (10, 7)
        assert episode.frames.std() > 10
        tasks.add(episode.task)
    assert "put carrot on plate" in tasks
    with pytest.raises(UserError, match=r"bridge_dataset-val\.tfrecord-00000-of-00001 does not"):
        open_dataset(root, split="val")
