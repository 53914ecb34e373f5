"""Weighted order: shares hold in every block, windows come in turn, a step needs no state."""

from __future__ import annotations

from collections import Counter

import pytest

from vidwm.data.order import BLOCK, Share, clip_order, quotas
from vidwm.data.sampler import epoch_order
from vidwm.errors import UserError

SHARES = (Share("a", 7, 3.0), Share("b", 400, 1.0))


def test_without_shares_it_is_the_order_of_an_epoch() -> None:
    assert clip_order(50, (), 3, 4, 8) == epoch_order(50, 3, 4, 8)


def test_shares_hold_in_every_block() -> None:
    for step in range(3):
        order = clip_order(407, SHARES, seed=0, step=step, batch_size=BLOCK)
        assert sum(number < 7 for number in order) == 750
        assert min(order) >= 0 and max(order) < 407


def test_a_part_goes_through_all_its_windows_before_one_comes_again() -> None:
    order = [n for step in range(8) for n in clip_order(407, SHARES, 0, step, 500)]
    counts = Counter(order)  # in 4 blocks: 3000 draws of 7 windows, 1000 of 400
    assert {counts[n] for n in range(7)} == {428, 429}
    assert {counts[n] for n in range(7, 407)} == {2, 3}
    assert order[:250] != order[1000:1250]


def test_a_step_depends_on_seed_and_step_alone() -> None:
    expected = clip_order(407, SHARES, seed=5, step=31, batch_size=8)
    whole = [n for step in range(40) for n in clip_order(407, SHARES, 5, step, 8)]
    assert whole[31 * 8 : 32 * 8] == expected
    assert [n for s in range(20) for n in clip_order(407, SHARES, 5, s, 16)] == whole
    assert clip_order(407, SHARES, seed=6, step=31, batch_size=8) != expected


@pytest.mark.parametrize(
    ("weights", "places"),
    [
        ([1.0], [1000]),
        ([1.0, 1.0, 1.0], [334, 333, 333]),
        ([1e6, 1.0], [999, 1]),
        ([0.7, 0.2, 0.1], [700, 200, 100]),
    ],
)
def test_quotas(weights: list[float], places: list[int]) -> None:
    assert quotas(weights) == places


def test_a_part_without_windows_is_named() -> None:
    with pytest.raises(UserError, match="b has weight 1, but no episode to train on"):
        clip_order(7, (Share("a", 7, 1.0), Share("b", 0, 1.0)), 0, 0, 4)
