"""Which metrics are measured for which frames and wishes."""

from __future__ import annotations

import pytest

from vidwm.errors import UserError
from vidwm.evaluation.metrics import arrow, frame_metrics, higher_is_better, written


def test_auto_takes_every_network_at_hand_that_can_read_the_frames() -> None:
    assert frame_metrics("auto", (8, 64)) == ("mae", "mse", "psnr")
    assert frame_metrics("auto", (16, 64)) == ("mae", "mse", "psnr", "ssim")
    assert "st_lpips_alex" in frame_metrics("auto", (32, 32))


def test_networks_may_be_named() -> None:
    assert frame_metrics("none", (64, 64)) == ("mae", "mse", "psnr", "ssim")
    named = frame_metrics("lpips, st_lpips_vgg,st_lpips_alex", (64, 64))
    assert named[4:] == ("st_lpips_alex", "st_lpips_vgg")


@pytest.mark.parametrize("wish", ["st_lpips_alx", "mae", "auto,none", ""])
def test_what_is_no_network_is_refused(wish: str) -> None:
    with pytest.raises(UserError):
        frame_metrics(wish, (64, 64))


def test_directions_and_digits() -> None:
    assert [higher_is_better(m) for m in ("psnr", "ssim", "mae", "repetition_rate")] == [
        True,
        True,
        False,
        False,
    ]
    assert arrow("psnr") == "↑" and arrow("moving_mse") == "↓"
    assert written("psnr", 31.126) == "31.13" and written("mse", None) == "-"
