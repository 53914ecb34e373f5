from __future__ import annotations

import pytest

from vidwm.training.curriculum import horizon_at


@pytest.mark.parametrize("horizon", [1, 3, 7])
def test_every_horizon_lasts_alike_and_the_last_to_the_end(horizon: int) -> None:
    growth = 10 * horizon
    grown = [horizon_at(step, growth, horizon) for step in range(growth + 5)]
    assert grown[:growth] == [h for h in range(1, horizon + 1) for _ in range(10)]
    assert grown[growth:] == [horizon] * 5


def test_without_growth_all_frames_are_there_at_once() -> None:
    assert horizon_at(0, 0, 5) == 5
    assert [horizon_at(step, 2, 5) for step in range(3)] == [1, 3, 5]
