"""Small recordings for the readers' tests: moving gradients in which every frame is its own."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidwm.data.crc32c import crc32c
from vidwm.data.lerobot_writer import LeRobotWriter


@pytest.fixture(scope="session")
def moving() -> Callable[..., np.ndarray]:
    """moving(T, H, W, seed): frames (T, H, W, 3) uint8."""

    def make(T: int, H: int = 32, W: int = 48, seed: int = 0) -> np.ndarray:
        y, x, t = np.mgrid[0:H, 0:W, 0:T]
        planes = [x * 3 + t * 7 + seed * 13, y * 5 + t * 11, x + y + t * 3 + seed * 29]
        channels = [128 + 100 * np.sin(plane / 40) for plane in planes]
        return np.stack(channels, axis=-1).transpose(2, 0, 1, 3).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def lerobot(
    tmp_path_factory: pytest.TempPathFactory, moving: Callable[..., np.ndarray]
) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    """A LeRobotDataset v3.0 of 5 episodes in 2 videos, with its frames and actions."""
    root = tmp_path_factory.mktemp("lerobot") / "set"
    generator = np.random.default_rng(0)
    frames = [moving(6 + i, seed=i) for i in range(5)]
    actions = [generator.normal(size=(len(f), 3)).astype(np.float32) for f in frames]
    with LeRobotWriter(
        root,
        fps=10,
        robot_type="arm",
        action_names=["dx", "dy", "grip"],
        state_names=["x", "y"],
        episodes_per_video=3,
    ) as writer:
        for i in range(5):
            writer.add_episode(
                frames=frames[i], actions=actions[i], states=actions[i][:, :2], task=f"task {i % 2}"
            )
    return root, frames, actions


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _feature(values: Any) -> bytes:
    if len(values) and isinstance(values[0], bytes):
        return _field(1, b"".join(_field(1, value) for value in values))
    array = np.asarray(values).ravel()
    if array.dtype.kind == "f":
        return _field(2, _field(1, array.astype("<f4").tobytes()))
    return _field(3, _field(1, b"".join(_varint(int(number)) for number in array)))


@pytest.fixture(scope="session")
def example() -> Callable[[dict[str, Any]], bytes]:
    """example({key: values}): a serialised tf.train.Example."""

    def make(features: dict[str, Any]) -> bytes:
        entries = (
            _field(1, _field(1, key.encode()) + _field(2, _feature(values)))
            for key, values in features.items()
        )
        return _field(1, b"".join(entries))

    return make


@pytest.fixture(scope="session")
def tfrecord() -> Callable[[Sequence[bytes]], bytes]:
    """tfrecord(payloads): the content of a TFRecord file."""

    def masked(data: bytes) -> bytes:
        crc = crc32c(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    def make(payloads: Sequence[bytes]) -> bytes:
        out = b""
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            out += length + masked(length) + payload + masked(payload)
        return out

    return make


@pytest.fixture()
def edit_json() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """edit_json(file, change): change(content) in place."""

    def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit
