"""Reading a reward from text, and mixing metrics into one number per rollout."""

from __future__ import annotations

import pytest
import torch

from vidwm.errors import UserError
from vidwm.reward.mix import METRIC_NAMES, check_metric, parse_reward, reward


def test_parse_reward():
    assert parse_reward("lpips=1,mae=1") == {"lpips": 1.0, "mae": 1.0}
    assert parse_reward(" ssim = 0.5 , psnr=1e-2,mse=0") == {"ssim": 0.5, "psnr": 0.01, "mse": 0.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "reward is empty"),
        ("  ", "reward is empty"),
        ("maee=1", "did you mean 'mae'"),
        ("lpips", "'lpips' is not name=weight"),
        ("mae=1,", "'' is not name=weight"),
        ("=1", "'=1' is not name=weight"),
        ("mae=one", "'one' of 'mae'"),
        ("mae=", "'' of 'mae'"),
        ("mae=nan", "'nan' of 'mae'"),
        ("mae=inf", "'inf' of 'mae'"),
        ("mae=-1", "already enter negated"),
        ("mae=1,mae=2", "names 'mae' twice"),
        ("mae=0,lpips=0", "All weights"),
    ],
)
def test_parse_reward_refuses(text, message):
    with pytest.raises(UserError, match=message):
        parse_reward(text)


def test_check_metric_knows_every_name_and_offers_the_nearest():
    for name in METRIC_NAMES:
        check_metric(name)
    with pytest.raises(UserError, match="did you mean 'st_lpips_alex'"):
        check_metric("stlpips_alex")


def test_reward_by_hand():
    metrics = {
        "mae": torch.tensor([[[0.1, 0.3], [0.0, 0.0]]]),
        "psnr": torch.tensor([[[20.0, 30.0], [80.0, 80.0]]]),
        "ssim": torch.tensor([[[0.5, 0.7], [1.0, 1.0]]]),  # weight 0 below: not counted
    }
    mixed = reward(metrics, {"mae": 2.0, "psnr": 0.1, "ssim": 0.0})
    torch.testing.assert_close(mixed, torch.tensor([[-2 * 0.2 + 0.1 * 25, 8.0]]))


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_better_metrics_give_more_reward(name):
    better_is_higher = name in ("psnr", "ssim")
    values = torch.tensor([0.2, 0.4] if better_is_higher else [0.4, 0.2]).view(1, 2, 1)
    worse, better = reward({name: values}, {name: 1.0})[0]
    assert better > worse
