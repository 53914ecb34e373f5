from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.pixel_errors import pixel_errors
from vidwm_kernels.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [(11, 11), (12, 33), (43, 13), (34, 55)]  # one window, odd, one tile and past it


@pytest.fixture(params=["reference", "triton"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with either."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def inputs(
    H: int, W: int, dtype: torch.dtype = torch.float32, M: int = 3, P: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, some of them outside of [0, 1], near the true frames they belong to."""
    true, index = torch.rand(P, 3, H, W).to(dtype), torch.randint(P, (M,))
    pred = true[index] + 0.2 * torch.randn(M, 3, H, W).to(dtype)
    return pred.contiguous(memory_format=torch.channels_last), true, index


def window(y: Tensor) -> float:
    """Gaussian mean of an 11 x 11 window, one pixel after the other."""
    total = weight = 0.0
    for i in range(11):
        for j in range(11):
            w = math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2))
            total, weight = total + w * float(y[i, j]), weight + w
    return total / weight


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean over all windows of two planes (3, H, W), by its formula."""
    found = []
    for c in range(3):
        for y in range(a.shape[1] - 10):
            for x in range(a.shape[2] - 10):
                p, q = (z[c, y : y + 11, x : x + 11] for z in (a, b))
                mp, mq = window(p), window(q)
                vp, vq = window(p * p) - mp * mp, window(q * q) - mq * mq
                cov = window(p * q) - mp * mq
                top = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4)
                found.append(top / ((mp * mp + mq * mq + 1e-4) * (vp + vq + 9e-4)))
    return sum(found) / len(found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("H", "W"), SIZES)
@pytest.mark.parametrize("with_ssim", [True, False])
def test_mae_and_mse(H: int, W: int, dtype: torch.dtype, with_ssim: bool) -> None:
    pred, true, index = inputs(H, W, dtype)
    found = pixel_errors(pred, true, index, with_ssim=with_ssim)
    error = pred.double().clamp(0, 1) - true.double()[index]
    assert_close("pixel_errors", found.mae, error.abs().mean(dim=(1, 2, 3)), dtype)
    assert_close("pixel_errors", found.mse, error.square().mean(dim=(1, 2, 3)), dtype)
    assert (found.ssim is None) == (not with_ssim)


def test_ssim_is_its_formula() -> None:
    pred, true, index = inputs(12, 13, M=2)
    found = pixel_errors(pred, true, index, with_ssim=True).ssim
    clamped = pred.double().clamp(0, 1)
    expected = [ssim(a, true.double()[p]) for a, p in zip(clamped, index.tolist(), strict=True)]
    assert_close("pixel_errors", found, torch.tensor(expected).double(), torch.float32)


@pytest.mark.parametrize(("H", "W"), SIZES)
def test_ssim_of_any_size(H: int, W: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pred, true, index = inputs(H, W)
    found = pixel_errors(pred, true, index, with_ssim=True).ssim
    monkeypatch.setenv(VARIABLE, "reference")
    expected = pixel_errors(pred.double().float(), true, index, with_ssim=True).ssim
    assert_close("pixel_errors", found, expected, torch.float32)
    same = pixel_errors(true, true, torch.arange(2), with_ssim=True).ssim
    torch.testing.assert_close(same, torch.ones(2))


def test_layouts_are_free_and_nothing_is_fine() -> None:
    pred, true, index = inputs(14, 35)
    expected = pixel_errors(pred, true, index, with_ssim=True)
    found = pixel_errors(pred.mT.contiguous().mT, true.flip(3).flip(3), index, with_ssim=True)
    for a, b in zip(found, expected, strict=True):
        assert_close("pixel_errors", a, b, torch.float32)
    nothing = pixel_errors(pred[:0], true, index[:0], with_ssim=True)
    assert [x.shape for x in nothing] == [(0,)] * 3


def test_nan_stays_in_its_frame() -> None:
    pred, true, index = inputs(14, 35)
    pred[1, 2, 5, 30] = float("nan")
    for x in pixel_errors(pred, true, index, with_ssim=True):
        assert x.isnan().tolist() == [False, True, False]


def test_bad_arguments_are_named() -> None:
    pred, true, index = inputs(11, 12)
    with pytest.raises(ValueError, match=r"pred \(M, 3, H, W\)"):
        pixel_errors(pred[:, :2], true, index, with_ssim=False)
    with pytest.raises(ValueError, match="int64"):
        pixel_errors(pred, true, index.int(), with_ssim=False)
    with pytest.raises(ValueError, match="float32, float16 or bfloat16"):
        pixel_errors(pred.double(), true, index, with_ssim=False)
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, got 10 x 12"):
        pixel_errors(pred[:, :, :10], true[:, :, :10], index, with_ssim=True)
    with pytest.raises(RuntimeError, match="no backward"):
        pixel_errors(pred.requires_grad_(), true, index, with_ssim=False)
