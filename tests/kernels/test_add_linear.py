from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from vidwm_kernels.add_linear import add_linear, fused
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# One, odd, prime, a power of two and one past a block, in rows, columns and depth.
SHAPES = [(1, 1, 1), (3, 7, 5), (17, 33, 130), (16, 16, 256), (130, 70, 47), (40, 600, 257)]


@pytest.fixture(params=["reference", "triton"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with either."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def inputs(R: int, N: int, K: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Residual, x and weight; the product has deviation 1."""
    tensors = torch.randn(R, N), torch.randn(R, K), torch.randn(N, K) / K**0.5
    return tuple(x.to(dtype) for x in tensors)


def definition(residual: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return residual.double() + torch.einsum("...k,nk->...n", x.double(), weight.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("R", "N", "K"), [*SHAPES, (520, 140, 70)])
def test_is_residual_plus_product(R: int, N: int, K: int, dtype: torch.dtype) -> None:
    tensors = inputs(R, N, K, dtype)
    before = [x.clone() for x in tensors]
    out = add_linear(*tensors)
    assert out.dtype == dtype
    assert_close("add_linear", out, definition(*tensors), dtype)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("rows", [(), (0,), (2, 0, 3), (2, 3, 4)])
def test_any_number_of_rows(rows: tuple[int, ...]) -> None:
    weight = torch.randn(5, 6)
    residual, x = torch.randn(*rows, 5), torch.randn(*rows, 6)
    out = add_linear(residual, x, weight)
    assert out.shape == (*rows, 5)
    assert (fused.plan(residual, x, weight)[0] == []) == (out.numel() == 0)
    assert_close("add_linear", out, definition(residual, x, weight), torch.float32)


def test_strides_are_free() -> None:
    residual = torch.randn(9, 4, 3).permute(1, 2, 0)
    x, weight = torch.randn(3, 4, 20).transpose(0, 1)[..., ::2], torch.randn(10, 9).T
    expected = definition(residual, x, weight)
    assert_close("add_linear", add_linear(residual, x, weight), expected, torch.float32)


def test_autocast_changes_nothing() -> None:
    tensors = inputs(4, 30, 50)
    expected = add_linear(*tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(add_linear(*tensors), expected)


def test_only_the_reference_has_gradients(implementation: str) -> None:
    tensors = [x.requires_grad_() for x in inputs(4, 3, 5)]
    if implementation == "triton":
        with pytest.raises(RuntimeError, match="add_linear has no backward in Triton"):
            add_linear(*tensors)
        with torch.no_grad():
            assert not add_linear(*tensors).requires_grad
        return
    grads = torch.autograd.grad(add_linear(*tensors).square().sum(), tensors)
    expected = torch.autograd.grad(definition(*tensors).square().sum(), tensors)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("shapes", "dtype", "message"),
    [
        (((2, 4), (2, 5), (4, 6)), torch.float32, r"expected residual .* \(2, 5\) and \(4, 6\)"),
        (((3, 4), (2, 6), (4, 6)), torch.float32, "expected residual"),
        (((2, 5), (2, 6), (4, 6)), torch.float32, "expected residual"),
        (((2, 4), (2, 6), (6,)), torch.float32, "expected residual"),
        (((2, 0), (2, 6), (0, 6)), torch.float32, "N and K at least 1"),
        (((2, 4), (2, 6), (4, 6)), torch.float64, "must all be float32, float16 or bfloat16"),
        (((2, 4), (2, 6), (4, 6)), torch.bfloat16, "must all be .* torch.bfloat16 and"),
    ],
)
def test_what_does_not_fit_is_an_error(
    shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, message: str
) -> None:
    residual, x, weight = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        add_linear(residual.to(dtype), x.to(dtype), weight)


def test_tiles_suit_the_hardware() -> None:
    rows, columns = (1, 16, 17, 32, 33, 64, 65, 128, 513, 2048), (1, 768, 3072, 32000)
    for R, N, sets, dtype in product(rows, columns, (1, 2), DTYPES):
        blocks, settings = fused.tiles(R, N, sets, dtype)
        height, width = blocks["BLOCK_M"], blocks["BLOCK_N"]
        # The weights are read once, and there are programs enough to draw all of the bandwidth.
        assert height >= min(R, 128 if sets == 2 and dtype != torch.float32 else 64)
        assert width == 16 or math.ceil(N / width) * math.ceil(R / height) >= fused.PROGRAMS
        # A slice is deep enough for a product, and each warp has one.
        assert blocks["BLOCK_K"] >= 16 * blocks["SLICES"]
        assert blocks["SLICES"] in (1, settings["num_warps"])
        # Copies overlap with products, in the shared memory that a consumer GPU has.
        stage = blocks["BLOCK_K"] * (height + sets * width) * dtype.itemsize
        assert settings["num_stages"] >= 3
        assert (settings["num_stages"] - 1) * stage <= fused.IN_FLIGHT < 99 * 1024


def test_one_launch_on_tensor_cores() -> None:
    launches, out = fused.plan(*inputs(16, 768, 3072, torch.bfloat16))
    assert [(launch.name, launch.grid, launch.matrix) for launch in launches] == [
        ("_add_linear", (48, 1), True)
    ]
    assert launches[0].args["out"] is out
    assert not fused.plan(*inputs(16, 768, 768))[0][0].matrix
