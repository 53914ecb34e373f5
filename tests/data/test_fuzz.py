"""Damage of every kind to every reader's files: an episode comes back or a sentence does.

Each round copies a small dataset, damages one of its files by chance (cut short, bits flipped, runs
of ones, blocks moved, numbers in text made absurd) and reads all of it. Only UserError may come of
that, soon, in little memory, and without a file being written. Seeds are fixed; VIDWM_FUZZ_ROUNDS
asks for more rounds than the few seconds a test may take.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from vidwm.data.datasets import open_dataset
from vidwm.data.video import write_video
from vidwm.errors import UserError

Moving = Callable[..., np.ndarray]
Builder = Callable[[Path], None]
ROUNDS = int(os.environ.get("VIDWM_FUZZ_ROUNDS", 0))
MAX_SECONDS = 10.0  # of one round; the usual one takes hundredths
MAX_KILOBYTES = 600_000  # that a reader's rounds may add to what the process holds
ABSURD = ("-1", "0", "1", "99999999999", "1e308", "9" * 30, "NaN", "null", '"x"', "[]", "2.5", "{}")
TEXT = (".json", ".jsonl", ".csv")


def damage(content: bytes, is_text: bool, chance: random.Random) -> bytes:
    """The content with something wrong about it."""
    if not content:
        return b"\xff"
    if is_text and chance.random() < 0.7:
        numbers = list(re.finditer(rb"-?\d+(\.\d+)?", content))
        place = chance.choice(numbers)
        return content[: place.start()] + chance.choice(ABSURD).encode() + content[place.end() :]
    kind = chance.choice(("cut", "flip", "flip", "ones", "zeros", "move", "drop"))
    at = chance.randrange(len(content))
    size = min(chance.choice((1, 4, 8, 64)), len(content) - at)
    if kind == "cut":
        return content[:at]
    if kind in ("ones", "zeros"):
        return content[:at] + (b"\xff" if kind == "ones" else b"\0") * size + content[at + size :]
    if kind == "drop":
        return content[:at] + content[at + size :]
    if kind == "move":
        to = chance.randrange(len(content))
        return content[:to] + content[at : at + size] + content[to + size :]
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 2, 8, 32))):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def read_everything(root: Path, cameras: Sequence[str | None]) -> None:
    for camera in cameras:
        try:
            dataset = open_dataset(root, camera=camera)
            dataset = pickle.loads(pickle.dumps(dataset))  # as on the way to a worker
        except UserError as error:
            assert str(error), "an error must say what is wrong"
            continue
        assert len(dataset) == len(dataset.lengths) == len(dataset.episode_ids) > 0
        for index, length in enumerate(dataset.lengths):
            try:
                assert len(dataset.episode(index)) == length
                assert len(dataset.span(index, length - 1, length)) == 1
            except UserError:
                continue


def fuzz(
    root: Path, rounds: int, seed: int, cameras: Sequence[str | None], ignore: str = "nothing"
) -> None:
    """`root` is damaged and put right again in every round."""
    contents = {file: file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}
    targets = [file for file in contents if ignore not in str(file)]
    read_everything(root, cameras)  # undamaged: what the libraries hold of their own
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chance = random.Random(seed)
    for number in range(ROUNDS or rounds):
        file = chance.choice(targets)
        damaged = damage(contents[file], file.suffix in TEXT, chance)
        file.write_bytes(damaged)
        began = time.monotonic()
        read_everything(root, cameras)
        assert time.monotonic() - began < MAX_SECONDS, f"round {number}, {file.name}"
        now = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        assert now == contents | {file: damaged}, "a file was written"
        file.write_bytes(contents[file])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MAX_KILOBYTES, f"{grown} KB were taken"


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def test_lerobot_v3(lerobot: tuple[Path, Any, Any], tmp_path: Path) -> None:
    root = Path(shutil.copytree(lerobot[0], tmp_path / "set"))
    fuzz(root, 40, 1, [None], ignore="stats")


def test_lerobot_v2(old: Path) -> None:
    fuzz(old, 60, 2, ["front", "wrist"])


def test_hdf5(tmp_path: Path, moving: Moving) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for name in ("robomimic", "libero"):
        with h5py.File(root / f"{name}.h5", "w") as file:
            data = file.create_group("data")
            data.attrs["env_args"] = np.bytes_(json.dumps({"env_kwargs": {"control_freq": 20}}))
            for i in range(3):
                frames = file.create_dataset(
                    f"data/demo_{i}/obs/front", data=moving(3, 8, 8), compression="gzip"
                )
                assert len(frames) == 3
                file[f"data/demo_{i}/actions"] = np.zeros((3, 2))
    fuzz(root, 150, 3, [None])


def test_hdf5_of_one_episode_a_file(tmp_path: Path, moving: Moving) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for i in range(2):
        with h5py.File(root / f"episode_{i}.hdf5", "w") as file:
            images = [np.frombuffer(png(frame), np.uint8) for frame in moving(3, 8, 8)]
            rows = np.zeros((3, max(map(len, images))), np.uint8)
            for row, image in zip(rows, images, strict=True):
                row[: len(image)] = image
            file["observations/images/top"] = rows
            file["action"] = np.zeros((3, 2))
    fuzz(root, 150, 4, [None])


def test_npz(tmp_path: Path, moving: Moving) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for i in range(2):
        arrays = {"image": moving(3, 8, 8), "action": np.zeros((3, 2))}
        np.savez_compressed(root / f"a{i}.npz", **arrays)
        np.savez(root / f"b{i}.npz", **arrays)
    fuzz(root, 200, 5, [None])


def test_manifest(tmp_path: Path, moving: Moving) -> None:
    root = tmp_path / "set"
    root.mkdir()
    write_video(root / "a.mp4", moving(5), 10)
    np.save(root / "a.npy", np.zeros((5, 2)))
    (root / "a.csv").write_text("x,y\n" + "0.5,1\n" * 5)
    (root / "a.json").write_text(json.dumps([[0, 1]] * 5))
    rows = [{"video": "a.mp4", "actions": f"a.{kind}", "id": kind} for kind in ("npy", "csv")]
    rows.append({"video": "a.mp4", "actions": "a.json", "start": 1, "end": 4, "fps": 10})
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fuzz(root, 100, 6, [None])


@pytest.fixture()
def rlds(
    tmp_path: Path,
    moving: Moving,
    example: Callable[[dict[str, Any]], bytes],
) -> tuple[Path, list[bytes]]:
    """A folder of two records without their shard, and the records."""
    root = tmp_path / "set"
    root.mkdir()
    action = {"tensor": {"shape": {"dimensions": ["2"]}, "dtype": "float32", "encoding": "none"}}
    image = {"image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"}}

    def tree(node: dict[str, Any]) -> dict[str, Any]:
        return {"featuresDict": {"features": node}}

    steps = tree({"action": action, "observation": tree({"front": image})})
    features = tree({"steps": {"sequence": {"feature": steps}}})
    (root / "features.json").write_text(json.dumps(features))
    splits = [{"name": "train", "shardLengths": ["2"]}]
    info = {"name": "toy", "fileFormat": "tfrecord", "splits": splits}
    (root / "dataset_info.json").write_text(json.dumps(info))
    record = {
        "steps/observation/front": [png(frame) for frame in moving(3, 8, 8)],
        "steps/action": np.zeros((3, 2), np.float32),
    }
    return root, [example(record)] * 2


SHARD = "toy-train.tfrecord-00000-of-00001"


def test_rlds(rlds: tuple[Path, list[bytes]], tfrecord: Callable[..., bytes]) -> None:
    root, records = rlds
    (root / SHARD).write_bytes(tfrecord(records))
    fuzz(root, 150, 7, [None])


def test_records_that_are_wrong_under_a_right_checksum(
    rlds: tuple[Path, list[bytes]], tfrecord: Callable[..., bytes]
) -> None:
    root, records = rlds
    chance = random.Random(8)
    for _ in range(ROUNDS or 200):
        damaged = damage(records[0], False, chance)
        (root / SHARD).write_bytes(tfrecord([damaged, records[1]]))
        read_everything(root, [None])
