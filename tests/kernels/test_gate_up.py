from __future__ import annotations

import pytest
import torch
from torch import Tensor
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.gate_up import fused, gate_up
from vidwm_kernels.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 1, 1), (3, 5, 7), (17, 130, 33), (16, 128, 16), (130, 47, 70), (40, 65, 600)]
EPS = 1e-3


@pytest.fixture(params=["reference", "triton"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with either."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def inputs(R: int, D: int, F: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """x, norm weight and weight; the products have deviation 1, the rows of x all sizes."""
    x = torch.randn(R, D) * torch.logspace(-2, 2, R)[:, None]
    tensors = x, torch.rand(D) + 0.5, torch.randn(2 * F, D) / D**0.5
    return tuple(x.to(dtype) for x in tensors)


def definition(x: Tensor, norm_weight: Tensor, weight: Tensor) -> Tensor:
    x, norm_weight, weight = x.double(), norm_weight.double(), weight.double()
    normed = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * norm_weight
    gate, up = weight.view(2, -1, weight.shape[1])
    gate, up = normed @ gate.T, normed @ up.T
    return gate * gate.sigmoid() * up


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("R", "D", "F"), SHAPES)
def test_is_silu_of_gate_times_up(R: int, D: int, F: int, dtype: torch.dtype) -> None:
    tensors = inputs(R, D, F, dtype)
    out = gate_up(*tensors, eps=EPS)
    assert out.dtype == dtype and out.shape == (R, F)
    assert_close("gate_up", out, definition(*tensors), dtype)


@pytest.mark.parametrize("rows", [(), (0,), (2, 0, 3), (2, 3, 4)])
def test_any_number_of_rows(rows: tuple[int, ...]) -> None:
    _, norm_weight, weight = inputs(1, 6, 5)
    x = torch.randn(*rows, 6)
    out = gate_up(x, norm_weight, weight, eps=EPS)
    assert out.shape == (*rows, 5)
    assert (fused.plan(x, norm_weight, weight, eps=EPS)[0] == []) == (out.numel() == 0)
    assert_close("gate_up", out, definition(x, norm_weight, weight), torch.float32)


def test_strides_are_free() -> None:
    x = torch.randn(9, 4, 3).permute(1, 2, 0)
    norm_weight, weight = torch.rand(18)[::2], torch.randn(9, 10).T
    expected = definition(x, norm_weight, weight.contiguous())
    assert_close("gate_up", gate_up(x, norm_weight, weight, eps=EPS), expected, torch.float32)


@pytest.mark.filterwarnings("ignore:overflow")  # exp(300) is inf, and 1 / inf is right
def test_a_gate_far_from_zero_is_open_or_shut() -> None:
    weight = torch.tensor([[300.0], [-300.0], [2.0], [2.0]])
    out = gate_up(torch.ones(1, 1), torch.ones(1), weight, eps=1e-12)
    assert out.tolist() == [[600.0, 0.0]]


def test_fp16_states_may_be_as_large_as_fp16_allows() -> None:
    x, norm_weight, weight = inputs(4, 32, 20, torch.float16)
    x[:, 3] = 60000.0
    norm_weight[3] = 2.0
    out = gate_up(x, norm_weight, weight, eps=EPS)
    # One number dominates its row, so each product is one weight times 2 sqrt(32).
    expected = definition(x, norm_weight, weight)
    torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=1e-2)


def test_autocast_changes_nothing() -> None:
    tensors = inputs(4, 30, 50)
    expected = gate_up(*tensors, eps=EPS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gate_up(*tensors, eps=EPS), expected)


def test_only_the_reference_has_gradients(implementation: str) -> None:
    tensors = [x.requires_grad_() for x in inputs(3, 5, 4)]
    if implementation == "triton":
        with pytest.raises(RuntimeError, match="gate_up has no backward in Triton"):
            gate_up(*tensors, eps=EPS)
        with torch.no_grad():
            assert not gate_up(*tensors, eps=EPS).requires_grad
        return
    grads = torch.autograd.grad(gate_up(*tensors, eps=EPS).square().sum(), tensors)
    expected = torch.autograd.grad(definition(*tensors).square().sum(), tensors)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shapes", "dtype", "message"),
    [
        (((2, 4), (5,), (6, 4)), torch.float32, r"expected x .* \(5,\) and \(6, 4\)"),
        (((2, 4), (4,), (5, 4)), torch.float32, "expected x"),
        (((2, 4), (4,), (6, 3)), torch.float32, "expected x"),
        (((), (4,), (6, 4)), torch.float32, "expected x"),
        (((2, 4), (4,), (0, 4)), torch.float32, "D and F at least 1"),
        (((2, 4), (4,), (6, 4)), torch.float64, "must all be float32, float16 or bfloat16"),
        (((2, 4), (4,), (6, 4)), torch.float16, "must all be .* torch.float16, "),
    ],
)
def test_what_does_not_fit_is_an_error(
    shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, message: str
) -> None:
    x, norm_weight, weight = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        gate_up(x.to(dtype), norm_weight, weight, eps=EPS)


def test_one_launch_on_tensor_cores() -> None:
    launches, out = fused.plan(*inputs(16, 768, 3072, torch.bfloat16), eps=EPS)
    assert [(launch.name, launch.grid, launch.matrix) for launch in launches] == [
        ("_gate_up", (48, 1), True)
    ]
    assert launches[0].args["out"] is out
