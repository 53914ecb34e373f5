"""Intervals over episodes against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vidwm.evaluation.bootstrap import Bootstrap, Interval, per_episode, verdict


def test_two_episodes_have_only_three_resampled_means() -> None:
    # 0, 1/2 and 1 with probability 1/4, 1/2, 1/4: both tails reach the ends.
    interval = Bootstrap(2, resamples=4000).mean(np.array([0.0, 1.0]))
    assert (interval.value, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_many_normal_episodes_give_the_textbook_interval() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    interval = Bootstrap(400, resamples=4000).mean(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_the_seed_decides_the_resamples() -> None:
    values = np.random.default_rng(0).normal(size=20)
    first, again, other = (Bootstrap(20, seed=seed).mean(values) for seed in (1, 1, 2))
    assert (first.low, first.high) == (again.low, again.high)
    assert (first.low, first.high) != (other.low, other.high)


def test_episode_means_weigh_windows_and_frames() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    weights = np.array([[1.0, 0.0], [3.0, 2.0], [0.0, 0.0]])
    overall, curve = per_episode(values, weights, np.array([7, 7, 9]))
    assert overall[0] == pytest.approx((1 + 9 + 8) / 6)
    np.testing.assert_allclose(curve[0], [(1 + 9) / 4, 4.0])
    assert np.isnan(overall[1]) and np.isnan(curve[1]).all()


def test_repeating_windows_of_an_episode_adds_no_evidence() -> None:
    values = np.random.default_rng(0).normal(size=(10, 1))
    episodes = np.arange(10)
    once = per_episode(values, np.ones((10, 1)), episodes)[0]
    often = per_episode(np.repeat(values, 5, 0), np.ones((50, 1)), np.repeat(episodes, 5))[0]
    narrow, wide = Bootstrap(10).mean(often), Bootstrap(10).mean(once)
    assert narrow.high - narrow.low == pytest.approx(wide.high - wide.low)


def test_an_episode_without_a_value_does_not_count() -> None:
    values = np.array([1.0, np.nan, 2.0, 3.0])
    interval = Bootstrap(4).mean(values)
    assert interval.value == pytest.approx(2.0)
    assert 1.0 <= interval.low < 2.0 < interval.high <= 3.0
    change = Bootstrap(4).relative(values, np.array([2.0, 100.0, 4.0, 6.0]))
    assert change.value == pytest.approx(-50.0)


@pytest.mark.parametrize("values", [[2.0], [2.0, np.nan, np.nan]])
def test_one_episode_gives_no_interval_and_no_verdict(values: list[float]) -> None:
    bootstrap = Bootstrap(len(values))
    interval = bootstrap.mean(np.array(values))
    assert interval.value == 2.0
    assert np.isnan(interval.low) and np.isnan(interval.high)
    assert verdict(interval, higher_is_better=False) == "unknown"


def test_curves_are_resampled_column_by_column() -> None:
    values = np.random.default_rng(0).normal(size=(12, 3))
    together, alone = Bootstrap(12).mean(values), Bootstrap(12).mean(values[:, 1])
    assert together.low.shape == (3,)
    assert together.low[1] == pytest.approx(alone.low)


def test_pairing_sees_a_small_change_in_noisy_episodes() -> None:
    noise = np.random.default_rng(0).normal(10.0, 3.0, 30)
    bootstrap = Bootstrap(30)
    change = bootstrap.difference(noise - 0.1, noise)
    assert change.low == pytest.approx(-0.1) and change.high == pytest.approx(-0.1)
    apart = bootstrap.mean(noise)
    assert apart.high - apart.low > 1.0


def test_the_relative_difference_is_one_of_means() -> None:
    values, reference = np.array([1.0, 11.0]), np.array([2.0, 8.0])
    assert Bootstrap(2).relative(values, reference).value == pytest.approx(20.0)
    assert np.isnan(Bootstrap(2).relative(values, np.zeros(2)).value)


def test_there_is_no_percentage_of_what_may_as_well_be_nothing() -> None:
    values, reference = np.ones(40), np.zeros(40)
    reference[0] = 0.1  # a third of all redraws miss the one episode
    change = Bootstrap(40).relative(values, reference)
    assert np.isnan([change.value, change.low, change.high]).all()
    reference[:20] = 0.1
    assert Bootstrap(40).relative(values, reference).value == pytest.approx(1900.0)


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "expected"),
    [
        (-2.0, -1.0, False, "better"),
        (-2.0, -1.0, True, "worse"),
        (1.0, 2.0, False, "worse"),
        (1.0, 2.0, True, "better"),
        (-1.0, 2.0, True, "no change"),
        (0.0, 0.0, False, "no change"),
        (np.nan, np.nan, False, "unknown"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(
    low: float, high: float, higher_is_better: bool, expected: str
) -> None:
    change = Interval(value=np.array(low), low=np.array(low), high=np.array(high))
    assert verdict(change, higher_is_better) == expected
