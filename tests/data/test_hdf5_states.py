"""HDF5: states beside the actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vidwm.data.datasets import open_dataset
from vidwm.errors import UserError


def test_states(robomimic: Path, aloha: Path) -> None:
    dataset: Any = open_dataset(robomimic)
    assert dataset.state_names == ("gripper", *(f"robot0_eef_pos_{dim}" for dim in range(3)))
    assert dataset.states(3).dtype == np.float32 and dataset.states(3).shape == (7, 4)
    assert dataset.states(3)[1].tolist() == [3, 6, 7, 8]
    dataset = open_dataset(aloha)
    assert dataset.state_names[13:15] == ("qpos_13", "qvel_0") and len(dataset.state_names) == 28
    assert [dataset.states(i)[4, 0] for i in range(3)] == [2, 9, 10]
    assert (dataset.states(2)[:, 14:] == -1).all()
    with h5py.File(robomimic, "a") as file:
        del file["data/demo_3/obs/gripper"]
        file["data/demo_3/obs/gripper"] = np.zeros(2)
    with pytest.raises(UserError, match=r"demo_3: the states 'gripper' are \(2,\) float64"):
        open_dataset(robomimic).states(3)  # type: ignore[attr-defined]
    with h5py.File(robomimic, "a") as file:
        eef = file["data/demo_2/obs/robot0_eef_pos"][()]
        del file["data/demo_2/obs/robot0_eef_pos"]
        file["data/demo_2/obs/robot0_eef_pos"] = eef.T
    with pytest.raises(UserError, match=r"demo_2: the states 'robot0_eef_pos' are \(3, \d\)"):
        open_dataset(robomimic).states(2)  # type: ignore[attr-defined]
