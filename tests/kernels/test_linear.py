from __future__ import annotations

import pytest
import torch
from vidwm_kernels import linear as module
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.linear import linear, packed


@pytest.mark.parametrize("shape", [(3,), (2, 1, 4), (130,)])
def test_packed_weights_give_the_same_product(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(module, "SMALLEST_PACKED", 1)
    monkeypatch.setenv(VARIABLE, "auto")
    x, weight = torch.randn(*shape, 33), torch.randn(17, 33)
    ready = packed(weight)
    assert ready.is_mkldnn and ready.shape == weight.shape
    expected = (x.double() @ weight.double().T).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(linear(x, ready), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(linear(x, weight), expected, rtol=1e-5, atol=1e-5)


def test_small_and_half_weights_and_the_reference_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, large = torch.randn(17, 33), torch.randn(1024, 512)
    monkeypatch.setenv(VARIABLE, "auto")
    assert packed(large).is_mkldnn
    assert packed(small) is small
    half = large.bfloat16()
    assert packed(half) is half
    monkeypatch.setenv(VARIABLE, "reference")
    assert packed(large) is large
