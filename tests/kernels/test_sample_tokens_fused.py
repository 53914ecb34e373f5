"""The fused draw equals its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.sample_tokens import Drawn, fused, reference, sample_tokens
from vidwm_kernels.testing import assert_close

from tests.kernels.test_sample_tokens import FILTERS, model


def both(monkeypatch: pytest.MonkeyPatch, *inputs: Tensor, **settings: Any) -> tuple[Drawn, Drawn]:
    """What the reference and what the fused kernels draw."""
    monkeypatch.setenv(VARIABLE, "reference")
    expected = sample_tokens(*inputs, with_entropy=True, **settings)
    monkeypatch.setenv(VARIABLE, "triton")
    return expected, sample_tokens(*inputs, with_entropy=True, **settings)


def assert_equal_draws(found: Drawn, expected: Drawn, dtype: torch.dtype = torch.float32) -> None:
    assert torch.equal(found.tokens, expected.tokens)
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert_close("sample_tokens", a, b, dtype)


@pytest.mark.parametrize("settings", FILTERS)
@pytest.mark.parametrize(
    ("R", "D", "V"), [(1, 8, 1), (3, 33, 5), (17, 200, 127), (3, 64, 1920), (70, 47, 300)]
)
def test_fused_equals_reference(
    R: int, D: int, V: int, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, found = both(monkeypatch, *model(R, D, V), **settings)
    assert_equal_draws(found, expected)


@pytest.mark.parametrize("per_row", [False, True])
def test_fused_equals_reference_with_a_mask_and_strides(
    per_row: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, head, names = model(24, 40, 300)
    legal = torch.rand(24, 600) < 0.2
    inputs = (
        hidden.view(6, 4, 40).transpose(0, 1),
        torch.stack([weight, weight], dim=1)[:, 0],
        head.T.contiguous().T,
        names.view(6, 4).T,
    )
    mask = legal.view(6, 4, 600)[..., ::2].transpose(0, 1) if per_row else legal[0, ::2]
    for settings in FILTERS:
        expected, found = both(monkeypatch, *inputs, legal=mask, **settings)
        assert found.tokens.shape == (4, 6)
        assert_equal_draws(found, expected)


@pytest.mark.parametrize("settings", FILTERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fused_in_half_precision_equals_its_rounded_product(
    dtype: torch.dtype, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only hidden * norm_weight is rounded; from there on it is the definition, to the token."""
    hidden, weight, head, names = model(19, 72, 200, dtype)
    scale = (hidden.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    exact = hidden.float() * weight.float()
    # Triton's interpreter cuts fp32 off to bf16, where a GPU rounds.
    cut = (exact.view(torch.int32) & -(2**16)).view(torch.float32)
    rounded = cut if dtype == torch.bfloat16 else exact.half().float()
    logits = F.linear(rounded, head.float()) * scale
    expected = reference.sample_from_logits(logits, names, with_entropy=True, **settings)
    found = both(monkeypatch, hidden, weight, head, names, **settings)[1]
    assert_equal_draws(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fused_in_half_precision_is_near_the_reference(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, found = both(monkeypatch, *model(150, 96, 200, dtype))
    same = found.tokens == expected.tokens
    # A race changes with twice the total variation distance: 0.003 per row in bf16, 0.4 of these.
    assert (~same).sum() <= 2
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert_close("sample_tokens", a[same], b[same], dtype)


def test_fused_takes_a_half_precision_head_under_fp32_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden, weight, head, names = model(9, 40, 100)
    expected, found = both(monkeypatch, hidden, weight, head.bfloat16(), names)
    assert_close("sample_tokens", found.entropy, expected.entropy, torch.bfloat16)


def test_fp16_states_may_be_as_large_as_fp16_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, head, names = model(4, 32, 20, torch.float16)
    hidden[:, 3] = 60000.0
    expected, found = both(monkeypatch, hidden, weight * 4, head, names)
    assert torch.equal(found.tokens, expected.tokens)


def test_the_fused_default_is_two_launches_and_writes_no_logits() -> None:
    inputs = model(16, 768, 4375, torch.bfloat16)
    launches, _ = fused.plan(*inputs)
    assert [launch.name for launch in launches] == ["_draw", "_merge"]
    launches, _ = fused.plan(*inputs, top_k=9, top_p=0.9, min_p=0.1, with_entropy=True)
    given = {x.data_ptr() for x in inputs}
    scratch = {
        x.data_ptr(): x.nbytes
        for launch in launches
        for x in launch.args.values()
        if isinstance(x, Tensor) and x.data_ptr() not in given
    }
    assert sum(scratch.values()) < 16 * 4375  # logits would be four times as many bytes
