"""Which windows are measured, and whose actions they borrow."""

from __future__ import annotations

import pytest

from vidwm.data.windows import Window
from vidwm.evaluation.windows import partners, spread_windows


def test_windows_are_spread_over_each_episode() -> None:
    windows = [Window(3, start) for start in range(10)] + [Window(5, start) for start in range(2)]
    assert [windows[i] for i in spread_windows(windows, 2)] == [
        Window(3, 2),
        Window(3, 7),
        Window(5, 0),
        Window(5, 1),
    ]
    assert spread_windows(windows, 1) == [5, 11]
    assert spread_windows(windows, 100) == list(range(12))


@pytest.mark.parametrize("per_episode", [1, 2, 3, 7])
@pytest.mark.parametrize("num_episodes", [1, 2, 3, 12])
def test_no_window_keeps_its_own_actions(num_episodes: int, per_episode: int) -> None:
    episodes = [10 * (i // per_episode) for i in range(num_episodes * per_episode)]
    if len(episodes) < 2:
        with pytest.raises(ValueError, match="at least 2 windows"):
            partners(episodes)
        return
    partner = partners(episodes)
    assert sorted(partner) == list(range(len(episodes)))
    assert all(other != i for i, other in enumerate(partner))
    if num_episodes > 1:
        assert all(episodes[other] != episodes[i] for i, other in enumerate(partner))
    assert partner == partners(episodes)


def test_uneven_episodes_still_lend_to_others() -> None:
    episodes = [0, 0, 0, 1, 2, 2, 3]
    assert all(episodes[other] != episodes[i] for i, other in enumerate(partners(episodes)))
    crowded = [0, 0, 0, 0, 1]
    assert all(other != i for i, other in enumerate(partners(crowded)))
