"""RLDS: states beside the actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vidwm.data.datasets import open_dataset
from vidwm.data.facts import states_of
from vidwm.errors import UserError


def test_states(toy: Path) -> None:
    dataset = open_dataset(toy)
    states = states_of(dataset, [1, 2])
    assert states is not None and list(states.names) == ["effort", "state_0", "state_1"]
    assert states.rows.dtype == np.float32 and states.rows.shape == (5 + 6, 3)
    assert states.rows[3].tolist() == [51.5, -103, 103]
    dataset.lengths[1] += 1  # type: ignore[index]
    with pytest.raises(
        UserError, match=r"'effort' are \(5, 1\) float32; expected numbers \(6, 1\)"
    ):
        states_of(dataset, [1])
