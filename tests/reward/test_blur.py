"""The folded convolution equals the convolution followed by the blur, gradients too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidwm.reward.blur import Blur, BlurredConv


@pytest.mark.parametrize("height", [14, 15, 20])
@pytest.mark.parametrize("width", [14, 17, 16])
@pytest.mark.parametrize(("size", "padding"), [(11, 2), (3, 1)])
def test_folded_equals_conv_then_blur(height, width, size, padding):
    conv = nn.Conv2d(3, 4, size, padding=padding).double().requires_grad_(False)
    blur, folded = Blur(4).double(), BlurredConv(conv)
    frames = torch.rand(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected, ours = blur(conv(frames)), folded(frames)
    torch.testing.assert_close(ours, expected)
    upstream = torch.rand_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, frames, upstream)
    (our_grad,) = torch.autograd.grad(ours, frames, upstream)
    torch.testing.assert_close(our_grad, expected_grad)


def test_blur_of_a_constant_is_the_constant():
    blurred = Blur(2)(torch.full((1, 2, 7, 8), 0.3))
    torch.testing.assert_close(blurred, torch.full((1, 2, 5, 5), 0.3))


@pytest.mark.parametrize("conv", [nn.Conv2d(3, 4, 4), nn.Conv2d(3, 4, 3, stride=2)])
def test_other_convolutions_are_refused(conv):
    with pytest.raises(ValueError, match="odd square kernel and stride 1"):
        BlurredConv(conv)
