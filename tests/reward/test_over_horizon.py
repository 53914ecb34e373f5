from __future__ import annotations

import torch

from vidwm.reward.mix import reward
from vidwm.reward.over_horizon import frame_weights


def test_weights_by_hand():
    assert frame_weights(4, "mean", 0.5).tolist() == [0.25] * 4
    assert frame_weights(3, "last", 0.5).tolist() == [0, 0, 1]
    torch.testing.assert_close(
        frame_weights(3, "discounted", 0.5), torch.tensor([4.0, 2.0, 1.0]) / 7
    )
    assert frame_weights(3, "discounted", 1.0).tolist() == frame_weights(3, "mean", 0.5).tolist()


def test_rewards_weigh_frames():
    metrics = {"mae": torch.tensor([[[0.1, 0.4], [0.3, 0.0]]])}
    found = reward(metrics, {"mae": 2.0}, frame_weights(2, "last", 0.5))
    torch.testing.assert_close(found, torch.tensor([[-0.8, 0.0]]))
