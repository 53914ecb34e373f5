from __future__ import annotations

import pytest
import torch
from torch import Tensor
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.lpips_distance import fused, lpips_distance, unit
from vidwm_kernels.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# (C, h, w) by stage: widths of 1, odd, a power of two and one past it; maps past one tile.
NETWORKS = [[(1, 1, 1)], [(3, 5, 7), (7, 3, 2)], [(64, 9, 15)], [(65, 7, 9), (33, 3, 4), (5, 2, 2)]]
Maps = list[Tensor]


@pytest.fixture(params=["reference", "triton", "auto"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with each; `auto` is the CPU's."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def inputs(
    network: list[tuple[int, int, int]], M: int = 5, P: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Maps, Maps, Maps, Tensor]:
    """Predictions of all sizes, true maps, heads, and which true frame each is compared with."""
    pred = [(torch.randn(M, *s) * torch.logspace(-2, 2, M)[:, None, None, None]) for s in network]
    pred = [a.to(dtype).contiguous(memory_format=torch.channels_last) for a in pred]
    true = [unit(torch.randn(P, *shape)) for shape in network]
    return pred, true, [torch.rand(shape[0]) for shape in network], torch.randint(P, (M,))


def definition(pred: Maps, true: Maps, heads: Maps, index: Tensor) -> Tensor:
    total = torch.zeros(len(index), dtype=torch.float64)
    for a, b, head in zip(pred, true, heads, strict=True):
        a, b, head = a.double(), b.double(), head.double()
        for m, p in enumerate(index.tolist()):
            length = a[m].square().sum(dim=0).sqrt().clamp_min(1e-10)
            difference = (a[m] / length - b[p]).square()
            total[m] += (difference * head[:, None, None]).sum() / a[m, 0].numel()
    return total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("network", NETWORKS)
def test_is_the_weighted_distance_of_directions(
    network: list[tuple[int, int, int]], dtype: torch.dtype
) -> None:
    tensors = inputs(network, dtype=dtype)
    out = lpips_distance(*tensors)
    assert out.dtype == torch.float32
    assert_close("lpips_distance", out, definition(*tensors), torch.float32)


@pytest.mark.parametrize("M", [0, 1, 17])
def test_any_number_of_predictions(M: int) -> None:
    tensors = inputs(NETWORKS[1], M=M)
    assert_close("lpips_distance", lpips_distance(*tensors), definition(*tensors), torch.float32)


def test_layouts_are_free() -> None:
    pred, true, heads, index = inputs(NETWORKS[3])
    expected = definition(pred, true, heads, index)
    pred = [a.contiguous() for a in pred[:1]] + [a.mT.contiguous().mT for a in pred[1:]]
    true = [b.contiguous() for b in true]
    heads = [torch.stack([head, head], dim=1)[:, 0] for head in heads]
    assert_close(
        "lpips_distance", lpips_distance(pred, true, heads, index), expected, torch.float32
    )


def test_the_nearly_equal_are_told_apart() -> None:
    pred, true, heads, _ = inputs(NETWORKS[2], M=3)
    index = torch.arange(3)
    pred = [3 * b + 1e-5 * a.sign() for a, b in zip(pred, true, strict=True)]
    expected = definition(pred, true, heads, index)
    torch.testing.assert_close(
        lpips_distance(pred, true, heads, index).double(), expected, rtol=0.05, atol=0
    )
    assert 0 < expected.max() < 1e-8


def test_no_length_is_no_direction() -> None:
    pred, true, heads, index = inputs(NETWORKS[1])
    pred[0][2, :, 1, 3] = 0
    out = lpips_distance(pred, true, heads, index)
    assert_close("lpips_distance", out, definition(pred, true, heads, index), torch.float32)


def test_nan_stays_in_its_prediction() -> None:
    pred, true, heads, index = inputs(NETWORKS[1])
    expected = definition(pred, true, heads, index)
    pred[1][3, 2, 0, 1] = float("nan")
    out = lpips_distance(pred, true, heads, index)
    assert out.isnan().tolist() == [False, False, False, True, False]
    keep = ~out.isnan()
    assert_close("lpips_distance", out[keep], expected[keep], torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
def test_gradients(dtype: torch.dtype, channels_last: bool) -> None:
    pred, true, heads, index = inputs(NETWORKS[3], dtype=dtype)
    if dtype == torch.float32:
        pred[0][0, :, 2, 2] = 0  # the gradient there is beyond half precision
    kind = torch.channels_last if channels_last else torch.contiguous_format
    pred = [(a / a.abs().amax(dim=(1, 2, 3), keepdim=True)) for a in pred]
    pred = [a.contiguous(memory_format=kind).requires_grad_() for a in pred]
    exact = [a.detach().double().requires_grad_() for a in pred]
    outer = torch.randn(len(index)) * 100  # out of the range where half precision is coarse
    lpips_distance(pred, true, heads, index).backward(outer)
    differences = [
        (torch.nn.functional.normalize(a, dim=1, eps=1e-10) - b.double()[index]).square()
        for a, b in zip(exact, true, strict=True)
    ]
    weighted = [
        (d * head.double()[:, None, None]).sum(dim=1).mean(dim=(1, 2))
        for d, head in zip(differences, heads, strict=True)
    ]
    torch.stack(weighted).sum(dim=0).backward(outer.double())
    for a, b in zip(pred, exact, strict=True):
        assert a.grad is not None and b.grad is not None and a.grad.dtype == dtype
        scale = b.grad.abs().amax(dim=(1, 2, 3), keepdim=True)
        assert_close("lpips_distance", a.grad.double() / scale, b.grad / scale, dtype)


def test_the_same_under_autocast_and_zero_for_the_same_maps() -> None:
    pred, true, heads, index = inputs(NETWORKS[3], M=4, P=4)
    expected = lpips_distance(pred, true, heads, index)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lpips_distance(pred, true, heads, index), expected)
        same = lpips_distance(pred, [unit(a) for a in pred], heads, torch.arange(4))
    assert same.abs().max() < 1e-13


def test_bad_arguments_are_named() -> None:
    pred, true, heads, index = inputs(NETWORKS[1])
    with pytest.raises(ValueError, match="as many maps"):
        lpips_distance(pred, true[:1], heads, index)
    with pytest.raises(ValueError, match="stage 1"):
        lpips_distance(pred, [true[0], true[0]], heads, index)
    with pytest.raises(ValueError, match="stage 0"):
        lpips_distance(pred, true, heads, index[:-1])
    with pytest.raises(ValueError, match="float32, float16 or bfloat16"):
        lpips_distance([a.double() for a in pred], true, heads, index)
    with pytest.raises(ValueError, match="int64"):
        lpips_distance(pred, true, heads, index.int())


def test_the_plan_is_one_launch_a_stage_and_one_more() -> None:
    launches, out = fused.plan(*inputs(NETWORKS[3]))
    assert [launch.name for launch in launches] == ["_stage"] * 3 + ["_add"]
    assert launches[-1].args["out"] is out
