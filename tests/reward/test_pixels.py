"""Pixel metrics against golden values, hand-computed cases and their own definitions."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from vidwm.reward import pixels


def random_frames(*lead: int, size: tuple[int, int] = (24, 20), seed: int = 0) -> torch.Tensor:
    return torch.rand(*lead, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["mae", "mse", "psnr", "ssim"])
def test_equals_the_reference_implementation(name, shared):
    golden = load_file(shared / "golden/metrics_io.safetensors")
    ours = getattr(pixels, name)(golden["pred"] / 255, golden["true"] / 255)
    torch.testing.assert_close(ours, golden[name], atol=1e-5, rtol=1e-5)


def test_constant_difference_by_hand():
    true = torch.full((2, 3, 16, 16), 0.25)
    pred = true + torch.tensor([0.5, 0.0]).view(2, 1, 1, 1)
    assert pixels.mae(pred, true).tolist() == [0.5, 0.0]
    assert pixels.mse(pred, true).tolist() == [0.25, 0.0]
    assert pixels.psnr(pred, true).tolist() == pytest.approx([-10 * math.log10(0.25), 80.0])


def test_ssim_of_a_single_window_is_its_formula():
    pred, true = random_frames(size=(11, 11)), random_frames(size=(11, 11), seed=1)
    offset = torch.arange(11.0) - 5
    taps = torch.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def mean(plane):
        return (taps * plane).sum((-2, -1))

    x, y = mean(pred), mean(true)
    variances = mean(pred**2) - x**2 + mean(true**2) - y**2
    covariance = mean(pred * true) - x * y
    expected = (2 * x * y + 1e-4) / (x**2 + y**2 + 1e-4)
    expected = (expected * (2 * covariance + 9e-4) / (variances + 9e-4)).mean()
    torch.testing.assert_close(pixels.ssim(pred, true), expected, atol=1e-5, rtol=0)


def test_ssim_is_one_for_equal_frames_and_averages_windows():
    true = random_frames(2)
    torch.testing.assert_close(pixels.ssim(true, true), torch.ones(2))
    pred = random_frames(seed=3)
    windows = [
        pixels.ssim(pred[..., i : i + 11, j : j + 11], true[0, ..., i : i + 11, j : j + 11])
        for i in range(24 - 10)
        for j in range(20 - 10)
    ]
    torch.testing.assert_close(pixels.ssim(pred, true[0]), torch.stack(windows).mean())


@pytest.mark.parametrize("name", ["mae", "mse", "psnr", "ssim"])
def test_true_frames_broadcast_over_rollouts(name):
    metric = getattr(pixels, name)
    pred, true = random_frames(2, 4, 3), random_frames(2, 3, seed=1)
    together = metric(pred, true[:, None])
    assert together.shape == (2, 4, 3)
    torch.testing.assert_close(together[1, 2, 0], metric(pred[1, 2, 0], true[1, 0]))


def test_ssim_refuses_frames_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11 x 11"):
        pixels.ssim(random_frames(size=(10, 30)), random_frames(size=(10, 30)))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.full((1, 3, 4, 4), 255.0), "got values from 255 to 255"),
        (torch.full((1, 3, 4, 4), -1e-3), "must lie in"),
        (torch.full((1, 3, 4, 4), math.nan), "nan"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "uint8"),
        (torch.zeros(1, 4, 4, 3), r"\(1, 4, 4, 3\)"),
    ],
)
def test_check_frames_refuses(frames, message):
    with pytest.raises(ValueError, match=message):
        pixels.check_frames(frames, "true")


def test_check_frames_accepts_the_closed_unit_interval():
    pixels.check_frames(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1).expand(3, 4, 4), "true")


def test_moving_mask_takes_the_largest_channel_difference():
    last = torch.full((3, 1, 4), 0.5)
    true = last.clone()
    true[1, 0, 1] += 0.06
    true[2, 0, 2] -= 0.06
    true[:, 0, 3] += 0.04  # three small differences do not add up
    assert pixels.moving_mask(true, last).tolist() == [[[False, True, True, False]]]


def test_masked_errors_by_hand_and_weighted_by_pixel():
    true, pred = random_frames(3), random_frames(3, seed=1)
    mask = torch.rand(3, 1, 24, 20, generator=torch.Generator().manual_seed(2)) > 0.7
    mask[2] = False
    for masked, error in [
        (pixels.masked_mae, (pred - true).abs()),
        (pixels.masked_mse, (pred - true).square()),
    ]:
        mean, count = masked(pred, true, mask)
        assert count.tolist() == [mask[0].sum(), mask[1].sum(), 0]
        assert mean[2] == 0
        moved = mask.expand_as(error)
        torch.testing.assert_close(mean[0], error[0][moved[0]].mean())
        torch.testing.assert_close((mean * count).sum() / count.sum(), error[moved].mean())


def test_masked_error_ignores_what_is_outside_the_mask():
    true, mask = random_frames(1), torch.zeros(1, 1, 24, 20, dtype=torch.bool)
    mask[..., :5] = True
    pred = true.clone()
    pred[..., 5:] = math.nan
    assert pixels.masked_mse(pred, true, mask)[0].item() == 0
