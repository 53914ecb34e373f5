from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.group_attention import fused, group_attention
from vidwm_kernels.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# B, G, Tq, H, Hkv, D, P, S: sizes 1, odd, prime, powers of two, one past.
SHAPES = [
    (1, 1, 1, 1, 1, 2, 1, 1),
    (2, 3, 1, 4, 4, 8, 7, 9),
    (2, 3, 4, 4, 2, 8, 70, 71),
    (1, 16, 5, 4, 1, 16, 33, 5),
    (3, 2, 2, 6, 3, 4, 64, 32),
    (1, 17, 8, 2, 1, 24, 129, 20),
    (1, 2, 3, 2, 2, 256, 65, 40),
    (5, 1, 1, 3, 3, 64, 200, 130),
]


@pytest.fixture(params=["reference", "auto", "triton"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with each; `auto` is `cpu.py` here."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, prefix, suffix and ragged lengths; what must not be seen is large."""
    B, G, Tq, H, Hkv, D, P, S = shape
    lengths = torch.randint(Tq, S + 1, (B, G))
    q = torch.randn(B, G, Tq, H, D)
    prefix = [torch.randn(B, Hkv, P, D) for _ in range(2)]
    suffix = [torch.randn(B, G, Hkv, S, D) for _ in range(2)]
    for part in suffix:
        part[(torch.arange(S) >= lengths[..., None])[:, :, None].expand(-1, -1, Hkv, -1)] = 1e4
    return [*(x.to(dtype) for x in (q, *prefix, *suffix)), lengths]


def one_at_a_time(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    suffix_k: Tensor,
    suffix_v: Tensor,
    lengths: Tensor,
) -> Tensor:
    """The same in float64 with a loop over everything and one softmax over all keys."""
    B, G, Tq, H, D = q.shape
    heads = H // prefix_k.shape[1]
    rows = []
    for b, g, t, h in torch.cartesian_prod(*(torch.arange(n) for n in (B, G, Tq, H))).tolist():
        seen, kv = int(lengths[b, g]) - Tq + t + 1, h // heads
        keys = torch.cat([prefix_k[b, kv], suffix_k[b, g, kv, :seen]]).double()
        values = torch.cat([prefix_v[b, kv], suffix_v[b, g, kv, :seen]]).double()
        weights = (keys @ q[b, g, t, h].double() / math.sqrt(D)).softmax(dim=0)
        rows.append(weights @ values)
    return torch.stack(rows).view(B, G, Tq, H, D)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_one_softmax_over_all_keys(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = inputs(shape, dtype)
    out = group_attention(*given)
    assert out.dtype == dtype
    assert_close("group_attention", out, one_at_a_time(*given), dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_length_for_all_reads_nothing_beyond_it(shape: tuple[int, ...]) -> None:
    *tensors, lengths = inputs(shape)
    same = torch.full_like(lengths, int(lengths.min()))
    expected = one_at_a_time(*tensors, same)
    for part in tensors[3:]:
        part[..., int(lengths.min()) :, :] = math.nan
    out = group_attention(*tensors, int(lengths.min()))
    assert_close("group_attention", out, expected, torch.float32)


def test_int32_lengths_do() -> None:
    *tensors, lengths = inputs(SHAPES[2])
    out = group_attention(*tensors, lengths.int())
    assert torch.equal(out, group_attention(*tensors, lengths))


@pytest.mark.parametrize("splits", [1, 2, 3])
@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[5], SHAPES[7]])
def test_the_number_of_splits_does_not_matter(shape: tuple[int, ...], splits: int) -> None:
    given = inputs(shape)
    launches, out = fused.plan(*given, splits=splits)
    for launch in launches:
        launch.run()
    assert_close("group_attention", out, one_at_a_time(*given), torch.float32)


def test_the_prefix_is_split_where_contexts_are_few_and_no_split_is_empty() -> None:
    block = {"BLOCK_M": 16, "BLOCK_N": 64}
    for P in (1, 64, 65, 700, 1373):
        splits = fused.num_splits(12, 16, P, 64, 2, block, 132)
        chunk = math.ceil(math.ceil(P / splits) / 64) * 64
        assert 1 <= splits <= math.ceil(P / 64)
        assert (splits - 1) * chunk < P <= splits * chunk
    assert fused.num_splits(12, 16, 1373, 64, 2, block, 132) > 1
    assert fused.num_splits(12 * 64, 16, 1373, 64, 2, block, 132) == 1


@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_gradients_equal_those_of_one_softmax(shape: tuple[int, ...], implementation: str) -> None:
    *tensors, lengths = inputs(shape)
    weight = torch.randn_like(tensors[0])
    leaves = [x.clone().requires_grad_() for x in tensors]
    if implementation == "triton":
        with pytest.raises(RuntimeError, match="group_attention has no backward in Triton"):
            group_attention(*leaves, lengths)
        return
    gradients = []
    for function in (group_attention, one_at_a_time):
        leaves = [x.clone().requires_grad_() for x in tensors]
        (function(*leaves, lengths) * weight).sum().backward()
        gradients.append([x.grad for x in leaves])
    for ours, theirs in zip(*gradients, strict=True):
        assert_close("group_attention", ours, theirs, torch.float32)


def test_survives_extreme_scores() -> None:
    q, *rest = inputs(SHAPES[1])
    out = group_attention(q * 1e4, *rest)
    assert torch.isfinite(out).all()
    expected = one_at_a_time(q * 1e4, *rest)
    torch.testing.assert_close(out.double(), expected, rtol=1e-3, atol=1e-3)


def test_reads_non_contiguous_inputs() -> None:
    *tensors, lengths = inputs(SHAPES[2])
    strided = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in tensors]
    assert not strided[0].is_contiguous()
    found = group_attention(*strided, lengths)
    assert_close("group_attention", found, group_attention(*tensors, lengths), torch.float32)


def test_computes_in_fp32_under_autocast() -> None:
    given = inputs(SHAPES[1])
    with torch.autocast("cpu", torch.bfloat16):
        out = group_attention(*given)
    assert torch.equal(out, group_attention(*given))


def test_leaves_its_inputs_alone() -> None:
    given = inputs(SHAPES[2])
    before = [x.clone() for x in given]
    group_attention(*given)
    for x, y in zip(given, before, strict=True):
        assert torch.equal(x, y)


def test_no_rollouts_are_no_output() -> None:
    *tensors, lengths = inputs(SHAPES[2])
    q, prefix_k, prefix_v, suffix_k, suffix_v = tensors
    out = group_attention(
        q[:, :0], prefix_k, prefix_v, suffix_k[:, :0], suffix_v[:, :0], lengths[:, :0]
    )
    assert out.shape == (2, 0, 4, 4, 8)


@pytest.mark.parametrize("length", [0, 3, 72])
def test_lengths_out_of_range_are_an_error(length: int) -> None:
    *tensors, lengths = inputs(SHAPES[2])
    with pytest.raises(ValueError, match=rf"{length} to {length} must lie between Tq = 4"):
        group_attention(*tensors, length)
    lengths[1, 2] = length
    with pytest.raises(ValueError, match="must lie between Tq = 4"):
        group_attention(*tensors, lengths)


def test_lengths_of_another_shape_are_an_error() -> None:
    *tensors, lengths = inputs(SHAPES[2])
    for wrong in (lengths[:1], lengths.float()):
        with pytest.raises(ValueError, match=r"suffix_lengths must be a number or \(2, 3\)"):
            group_attention(*tensors, wrong)


@pytest.mark.parametrize("index", range(5))
def test_shapes_and_dtypes_that_do_not_fit_are_an_error(index: int) -> None:
    *tensors, lengths = inputs(SHAPES[1])
    whole = tensors[index]
    tensors[index] = whole[:1]
    with pytest.raises(ValueError, match="expected q"):
        group_attention(*tensors, lengths)
    tensors[index] = whole.double()
    with pytest.raises(ValueError, match="must be float32, float16 or bfloat16"):
        group_attention(*tensors, lengths)
