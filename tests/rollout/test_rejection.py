"""Frames that repeat the one before are drawn anew, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.rollout.test_engine import LAYOUT, assert_equal, model, request
from vidwm.errors import UserError
from vidwm.reward.repetition import repeats
from vidwm.rollout.decoder import Decoder
from vidwm.rollout.engine import Rollouts, generate
from vidwm.rollout.naive import generate_naive
from vidwm.rollout.sampling import Sampling


def drawn(tries: int, how: Any = generate, **changes: Any) -> Rollouts:
    """Rollouts of which many repeat a frame, since two tokens alone are legal."""
    legal = torch.zeros(LAYOUT.codebook_size, dtype=torch.bool)
    legal[:2] = True
    asked = request() | {"sampling": Sampling(seed=9, reject_repeats=tries), "legal": legal}
    return how(model(), LAYOUT, **asked | {"horizon": 5} | changes)


def repeated(found: Rollouts) -> torch.Tensor:
    return repeats(found.tokens, request()["context"][:, -1])


def test_equals_the_uncached_twin_beyond_the_horizon_as_well() -> None:
    assert_equal(drawn(3), drawn(3, generate_naive))


def test_repeats_become_rare_and_the_first_repeat_is_where_futures_part() -> None:
    plain, rejected = drawn(0), drawn(8)
    before, after = repeated(plain), repeated(rejected)
    assert before.float().mean() > 0.1 and after.float().mean() < before.float().mean() / 2
    same = (plain.tokens == rejected.tokens).all(-1)
    untouched = before.int().cumsum(-1) == 0  # up to the first repeat
    assert (~untouched).any() and same[untouched].all()
    assert not same[before & (before.int().cumsum(-1) == 1) & ~after].any()


def test_one_rollout_does_not_depend_on_what_others_reject() -> None:
    together = drawn(4)
    alone = drawn(4, group_size=1, first_rollout=2)
    torch.testing.assert_close(alone.tokens[:, 0], together.tokens[:, 2], rtol=0, atol=0)


def test_drafts_do_not_mix_with_it() -> None:
    assert_equal(drawn(3, drafts=True), drawn(3, drafts=False))


def test_a_negative_number_of_tries() -> None:
    with pytest.raises(UserError, match="reject_repeats must be at least 0"):
        Sampling(reject_repeats=-1)


@pytest.mark.parametrize("tries", [0, 3])
def test_passes_of_frames_drawn_anew_are_counted(
    tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda *args: passes.append(1) or step(*args))
    found = drawn(tries, horizon=LAYOUT.horizon, drafts=False)
    N, h, A = LAYOUT.tokens_per_frame, LAYOUT.horizon, LAYOUT.action_dims
    assert (len(passes) > h * N - 1) == (tries > 0)
    assert found.tokens_per_pass == pytest.approx((h * N + (h - 1) * A - 1) / len(passes))
