"""A small RLDS folder, written by hand, as fixtures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Moving = Callable[..., np.ndarray]
Example = Callable[[dict[str, Any]], bytes]
TFRecord = Callable[[Sequence[bytes]], bytes]
SHARD = "toy-train.tfrecord-{:05d}-of-00002"


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def tensor(*dimensions: int, dtype: str = "float32", encoding: str = "none") -> dict[str, Any]:
    shape = {"dimensions": [str(d) for d in dimensions]} if dimensions else {}
    return {"tensor": {"shape": shape, "dtype": dtype, "encoding": encoding}}


def image(channels: int = 3, dtype: str = "uint8") -> dict[str, Any]:
    return {"image": {"shape": {"dimensions": ["-1", "-1", str(channels)]}, "dtype": dtype}}


def features(**steps: Any) -> dict[str, Any]:
    def tree(node: dict[str, Any]) -> dict[str, Any]:
        return {"featuresDict": {"features": node}}

    observation = {"wrist": image(), "depth": image(1), "far": image(3, "uint16"), "front": image()}
    observation |= {"state": tensor(2), "embedding": tensor(512), "step": tensor(dtype="int64")}
    observation |= {"effort": tensor(dtype="float64"), "any": tensor(-1)}
    steps = {"observation": tree(observation), "language_instruction": {"text": {}}, **steps}
    steps = {k: tree(v) if k == "action" and "tensor" not in v else v for k, v in steps.items()}
    return tree({"steps": {"sequence": {"feature": tree(steps)}}})


def episode_features(frames: np.ndarray, number: int) -> dict[str, Any]:
    T = len(frames)
    steps = number * 100.0 + np.arange(T, dtype=np.float32)
    return {
        "steps/observation/front": [png(frame) for frame in frames],
        "steps/observation/wrist": [png(frame[::-1]) for frame in frames],
        "steps/observation/state": np.stack([-steps, steps], axis=1),
        "steps/observation/effort": steps / 2,
        "steps/language_instruction": [f"do {number}".encode()] * T,
        "steps/action/world": np.stack([steps, -steps], axis=1),
        "steps/action/arm": steps + 0.5,
        "steps/action/stop": np.array([-1, 0, 1] * T).reshape(T, 3),
        "steps/is_last": np.arange(T) == T - 1,
    }


@pytest.fixture()
def write(tmp_path: Path, tfrecord: TFRecord) -> Callable[..., Path]:
    """write(shards of payloads): an RLDS folder toy/1.0.0 under tmp_path; returns it."""

    def make(shards: Sequence[Sequence[bytes]], action: Any = None) -> Path:
        root = tmp_path / "toy" / "1.0.0"
        root.mkdir(parents=True, exist_ok=True)
        for number, payloads in enumerate(shards):
            (root / SHARD.format(number)).write_bytes(tfrecord(payloads))
        counts = [str(len(payloads)) for payloads in shards]
        splits = [
            {"name": "test", "shardLengths": ["3"]},
            {"name": "train", "shardLengths": counts},
        ]
        info = {"name": "toy", "fileFormat": "tfrecord", "splits": splits}
        (root / "dataset_info.json").write_text(json.dumps(info))
        default = {"world": tensor(2), "stop": tensor(3, dtype="int32"), "arm": tensor()}
        (root / "features.json").write_text(json.dumps(features(action=action or default)))
        return root

    return make


@pytest.fixture()
def toy(write: Callable[..., Path], example: Example, moving: Moving) -> Path:
    payloads = [example(episode_features(moving(4 + i, seed=i), i)) for i in range(3)]
    return write([payloads[:2], payloads[2:]])
