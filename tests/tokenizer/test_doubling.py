from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vidwm.tokenizer.doubling import DoublingConv, doubled_conv


@pytest.mark.parametrize(
    ("M", "C", "K", "h", "w"), [(1, 1, 1, 1, 1), (2, 3, 5, 4, 7), (3, 4, 2, 1, 6)]
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_doubling_and_then_convolving(
    M: int, C: int, K: int, h: int, w: int, with_bias: bool
) -> None:
    x, weight = torch.randn(M, C, h, w).double(), torch.randn(K, C, 3, 3).double()
    bias = torch.randn(K).double() if with_bias else None
    out = doubled_conv(x, weight, bias)
    expected = F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)


def test_gradients() -> None:
    layer = DoublingConv(3, 2).double()
    x = torch.randn(2, 3, 3, 4, dtype=torch.double, requires_grad=True)
    outer = torch.randn(2, 2, 6, 8).double()
    found = torch.autograd.grad((layer(x) * outer).sum(), [x, layer.weight, layer.bias])
    plain = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)
    expected = torch.autograd.grad((plain * outer).sum(), [x, layer.weight, layer.bias])
    torch.testing.assert_close(found, expected)
