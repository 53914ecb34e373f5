from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.group_norm_silu import fused, group_norm_silu
from vidwm_kernels.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# M, C, h, w, groups: one of everything, odd, groups of 3 and of 24 channels, places past a tile.
SHAPES = [(1, 1, 1, 1, 1), (2, 6, 3, 5, 2), (3, 96, 2, 7, 4), (1, 32, 25, 29, 8), (2, 10, 4, 4, 5)]
EPS = 1e-6


@pytest.fixture(params=["reference", "triton", "auto"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with each; `auto` is the CPU's."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def inputs(M: int, C: int, h: int, w: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Maps of images of all sizes, with a mean that is not 0; weight and bias."""
    x = (torch.randn(M, C, h, w) + 2) * torch.logspace(-1, 1, M)[:, None, None, None]
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    return [x, torch.rand(C) + 0.5, torch.randn(C)]


def definition(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    x = x.double()
    grouped = x.reshape(len(x), groups, -1)
    mean, spread = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, correction=0)
    normed = ((grouped - mean) / (spread + EPS).sqrt()).view(x.shape)
    y = normed * weight.double()[:, None, None] + bias.double()[:, None, None]
    return y * y.sigmoid()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "C", "h", "w", "groups"), SHAPES)
def test_is_silu_of_the_normalised(
    M: int, C: int, h: int, w: int, groups: int, dtype: torch.dtype
) -> None:
    tensors = inputs(M, C, h, w, dtype)
    out = group_norm_silu(*tensors, groups, eps=EPS)
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
    assert_close("group_norm_silu", out, definition(*tensors, groups), dtype)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    _, weight, bias = inputs(2, 16, 64, 80)
    x = (torch.randn(2, 16, 64, 80) + 30).contiguous(memory_format=torch.channels_last)
    out = group_norm_silu(x, weight, bias, 4, eps=EPS)
    assert (out - definition(x, weight, bias, 4)).abs().max() < 2e-4  # 8e-3 by differences of sums


def test_layouts_are_free_and_nothing_is_fine() -> None:
    x, weight, bias = inputs(2, 8, 5, 4)
    expected = definition(x, weight, bias, 2)
    for layout in (x.contiguous(), x.mT.contiguous().mT, torch.cat([x, x], dim=1)[:, :8]):
        out = group_norm_silu(layout, weight, bias, 2, eps=EPS)
        assert_close("group_norm_silu", out, expected, torch.float32)
    assert group_norm_silu(x[:0], weight, bias, 2, eps=EPS).shape == (0, 8, 5, 4)
    assert fused.plan(x[:0], weight, bias, 2, eps=EPS)[0] == []


def test_nan_stays_in_its_image_and_group() -> None:
    x, weight, bias = inputs(3, 8, 5, 4)
    x[1, 5, 2, 2] = float("nan")
    out = group_norm_silu(x, weight, bias, 4, eps=EPS)
    expected = torch.zeros(3, 8, dtype=torch.bool)
    expected[1, 4:6] = True
    assert torch.equal(out.isnan().all(dim=(2, 3)), expected)
    assert torch.equal(out.isnan().any(dim=(2, 3)), expected)


def test_gradients() -> None:
    tensors = [t.requires_grad_() for t in inputs(2, 6, 3, 5)]
    exact = [t.detach().double().requires_grad_() for t in tensors]
    outer = torch.randn(2, 6, 3, 5)
    group_norm_silu(*tensors, 2, eps=EPS).backward(outer)
    F.silu(F.group_norm(exact[0], 2, exact[1], exact[2], EPS)).backward(outer.double())
    for found, expected in zip(tensors, exact, strict=True):
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=1e-4, atol=1e-4)


def test_bad_arguments_are_named() -> None:
    x, weight, bias = inputs(1, 6, 2, 2)
    with pytest.raises(ValueError, match="multiple of groups"):
        group_norm_silu(x, weight, bias, 4, eps=EPS)
    with pytest.raises(ValueError, match=r"weight and bias \(C,\)"):
        group_norm_silu(x, weight[:5], bias, 2, eps=EPS)
    with pytest.raises(ValueError, match="float32, float16 or bfloat16"):
        group_norm_silu(x.double(), weight, bias, 2, eps=EPS)
