"""Ranges of actions: what they cut off is counted, and commands are not cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from vidwm.world_model.actions import ActionBins
from vidwm.world_model.range_report import range_lines, range_report, write_ranges


def rows() -> np.ndarray:
    """x from 0 to 99.9 with one outlier; a gripper that is open, halfway or, 4 times, closed."""
    x = np.arange(1000) / 10
    x[500] = -1e4
    grip = np.arange(1000) % 2 - 1.0
    grip[:4] = 1
    return np.stack([x, grip], axis=1).astype(np.float32)


def test_quantiles_do_not_cut_a_gripper() -> None:
    bins = ActionBins.fit(rows(), bins=8, uncut=(1,))
    assert (bins.low[1], bins.high[1]) == (-1, 1)
    assert bins.encode(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))[:, 1].tolist() == [7, 0]
    assert 0.5 < bins.low[0] < 1.5 and 98 < bins.high[0] < 99.5


def test_a_dimension_that_hardly_moves_keeps_its_whole_range() -> None:
    still = np.zeros((1000, 1), np.float32)
    still[:5, 0] = np.linspace(1, 2, 5)
    bins = ActionBins.fit(still)  # its 1 % and 99 % quantiles are both 0
    assert (bins.low.item(), bins.high.item()) == (0, 2)


def test_values_outside_are_counted_and_saved(tmp_path: Path) -> None:
    bins = ActionBins.fit(rows(), uncut=(1,))
    x, grip = range_report(bins, rows(), ("x", "grip"), (1,))
    assert (x.below, x.above, x.values) == (10, 10, 1000)
    assert x.outside == 0.02 and not x.discrete
    assert (x.minimum, x.low > 0) == (-1e4, True)
    assert (grip.outside, grip.minimum, grip.high, grip.discrete) == (0, -1, 1, True)
    table = range_lines([x, grip])
    assert len(table) == 3 and "2.00%" in table[1] and table[2].endswith("few values, uncut")
    write_ranges(tmp_path / "ranges.json", [x, grip])
    saved = json.loads((tmp_path / "ranges.json").read_text())["ranges"]
    assert [entry["outside"] for entry in saved] == [0.02, 0]
    assert saved[0]["below"] == 10
