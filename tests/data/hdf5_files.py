"""Small HDF5 files of the kinds that are read, as fixtures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

Moving = Callable[..., np.ndarray]


def actions_of(T: int, A: int = 4) -> np.ndarray:
    return np.arange(T * A, dtype=np.float64).reshape(T, A)


def jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture()
def robomimic(tmp_path: Path, moving: Moving) -> Path:
    """Twelve demonstrations, two cameras, one of them in floats; a mask with two splits."""
    path = tmp_path / "set" / "demos.hdf5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        env_args = {"env_name": "Lift", "env_kwargs": {"control_freq": 25}}
        file.create_group("data").attrs["env_args"] = np.bytes_(json.dumps(env_args))
        for i in (10, 11, *range(10)):
            frames, obs = moving(4 + i, seed=i), f"data/demo_{i}/obs"
            file[f"{obs}/agentview_image"] = frames
            file[f"{obs}/robot0_eye_in_hand_image"] = (frames[:, ::-1] / 255).astype(np.float32)
            file[f"{obs}/robot0_eef_pos"] = np.arange((4 + i) * 3.0).reshape(4 + i, 3) + i
            file[f"{obs}/gripper"] = np.full(4 + i, float(i))
            file[f"{obs}/object"] = np.zeros((4 + i, 5 + i))
            file[f"data/demo_{i}/actions"] = actions_of(4 + i)
        file["mask/train"] = np.array([b"demo_1", b"demo_11"])
        file["mask/valid"] = np.array([b"demo_0"])
    return path


@pytest.fixture()
def aloha(tmp_path: Path, moving: Moving) -> Path:
    """Three files: plain pixels, padded JPEGs, JPEGs of their own lengths."""
    root = tmp_path / "aloha"
    root.mkdir()
    for i, number in enumerate((2, 9, 10)):
        frames = moving(5 + i, 48, 64, seed=i)
        with h5py.File(root / f"episode_{number}.hdf5", "w") as file:
            file["action"] = actions_of(5 + i, 14).astype(np.float32)
            file["observations/qpos"] = np.full((5 + i, 14), float(number))
            file["observations/qvel"] = np.full((5 + i, 14), -1.0)
            file.attrs["compress"] = i > 0
            images = file.create_group("observations/images")
            encoded = [np.frombuffer(jpeg(frame), np.uint8) for frame in frames]
            if i == 0:
                images.create_dataset("cam_high", data=frames, compression="gzip")
            elif i == 1:
                padded = np.zeros((len(frames), max(map(len, encoded))), np.uint8)
                for row, image in zip(padded, encoded, strict=True):
                    row[: len(image)] = image
                images["cam_high"] = padded
            else:
                images.create_dataset("cam_high", (len(frames),), h5py.vlen_dtype(np.uint8))
                for t, image in enumerate(encoded):
                    images["cam_high"][t] = image
    return root
