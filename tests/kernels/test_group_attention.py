from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from vidwm_kernels.group_attention import group_attention
from vidwm_kernels.testing import assert_close

# B, G, Tq, H, Hkv, D, P, suffix_length, S: sizes 1, odd, prime, powers of two, one past.
SHAPES = [
    (1, 1, 1, 1, 1, 2, 1, 1, 1),
    (2, 3, 1, 4, 4, 8, 7, 5, 9),
    (2, 3, 4, 4, 2, 8, 7, 5, 9),
    (1, 16, 5, 4, 1, 16, 33, 5, 5),
    (3, 2, 2, 6, 3, 4, 64, 17, 32),
]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, prefix and suffix; the part of the suffix that must not be read is NaN."""
    B, G, Tq, H, Hkv, D, P, length, S = shape
    q = torch.randn(B, G, Tq, H, D)
    prefix = [torch.randn(B, Hkv, P, D) for _ in range(2)]
    suffix = [torch.full((B, G, Hkv, S, D), math.nan) for _ in range(2)]
    for part in suffix:
        part[..., :length, :] = torch.randn(B, G, Hkv, length, D)
    return [x.to(dtype) for x in (q, *prefix, *suffix)]


def one_at_a_time(
    q: Tensor, prefix_k: Tensor, prefix_v: Tensor, suffix_k: Tensor, suffix_v: Tensor, length: int
) -> Tensor:
    """The same in float64 with a loop over everything and one softmax over all keys."""
    B, G, Tq, H, D = q.shape
    heads = H // prefix_k.shape[1]
    rows = []
    for b, g, t, h in torch.cartesian_prod(*(torch.arange(n) for n in (B, G, Tq, H))).tolist():
        seen, kv = length - Tq + t + 1, h // heads
        keys = torch.cat([prefix_k[b, kv], suffix_k[b, g, kv, :seen]]).double()
        values = torch.cat([prefix_v[b, kv], suffix_v[b, g, kv, :seen]]).double()
        weights = (keys @ q[b, g, t, h].double() / math.sqrt(D)).softmax(dim=0)
        rows.append(weights @ values)
    return torch.stack(rows).view(B, G, Tq, H, D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_one_softmax_over_all_keys(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensors = inputs(shape, dtype)
    out = group_attention(*tensors, shape[7])
    assert out.dtype == dtype
    assert_close("group_attention", out, one_at_a_time(*tensors, shape[7]), dtype)


@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_gradients_equal_those_of_one_softmax(shape: tuple[int, ...]) -> None:
    tensors = inputs(shape)
    weight = torch.randn_like(tensors[0])
    gradients = []
    for function in (group_attention, one_at_a_time):
        leaves = [x.clone().requires_grad_() for x in tensors]
        (function(*leaves, shape[7]) * weight).sum().backward()
        gradients.append([x.grad for x in leaves])
    for ours, theirs in zip(*gradients, strict=True):
        assert_close("group_attention", ours, theirs, torch.float32)


def test_survives_extreme_scores() -> None:
    q, *rest = inputs(SHAPES[1])
    out = group_attention(q * 1e4, *rest, 5)
    assert torch.isfinite(out).all()
    expected = one_at_a_time(q * 1e4, *rest, 5)
    torch.testing.assert_close(out.double(), expected, rtol=1e-3, atol=1e-3)


def test_reads_non_contiguous_inputs() -> None:
    tensors = inputs(SHAPES[2])
    strided = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in tensors]
    assert not strided[0].is_contiguous()
    expected = group_attention(*tensors, 5)
    assert_close("group_attention", group_attention(*strided, 5), expected, torch.float32)


def test_computes_in_fp32_under_autocast() -> None:
    tensors = inputs(SHAPES[1])
    with torch.autocast("cpu", torch.bfloat16):
        out = group_attention(*tensors, 5)
    assert torch.equal(out, group_attention(*tensors, 5))


def test_leaves_its_inputs_alone() -> None:
    tensors = inputs(SHAPES[2])
    before = [x.clone() for x in tensors]
    group_attention(*tensors, 5)
    for x, y in zip(tensors, before, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("length", [0, 3, 10])
def test_a_suffix_length_out_of_range_is_an_error(length: int) -> None:
    with pytest.raises(ValueError, match=f"suffix_length {length} must lie between Tq = 4"):
        group_attention(*inputs(SHAPES[2]), length)


@pytest.mark.parametrize("index", range(5))
def test_shapes_that_do_not_fit_are_an_error(index: int) -> None:
    tensors = inputs(SHAPES[1])
    tensors[index] = tensors[index][:1]
    with pytest.raises(ValueError, match="expected q"):
        group_attention(*tensors, 5)
