from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.qkv_rope import fused, qkv_rope
from vidwm_kernels.testing import assert_close

from vidwm.world_model.attention import rope_tables

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# B, G, T, D, H, Hkv, Dh: head widths from 2 to 256, rows from 1 to 130.
SHAPES = [
    (1, 1, 1, 1, 1, 1, 2),
    (1, 3, 1, 5, 3, 1, 6),
    (17, 1, 1, 130, 4, 2, 64),
    (2, 4, 5, 33, 2, 2, 22),
    (2, 5, 13, 96, 3, 3, 16),
    (1, 2, 3, 40, 1, 1, 256),
]
THETA, POSITIONS, EPS = 100.0, 90, 1e-3


@pytest.fixture(params=["reference", "triton"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with either."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def inputs(*shape: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """All arguments for B, G, T, D, H, Hkv, Dh; rollouts out of step, the cache full of nan."""
    B, G, T, D, H, Hkv, Dh = shape
    S = 2 * T + 9
    cos, sin = rope_tables(Dh, POSITIONS, THETA)
    cache = torch.full((B, G, Hkv, S, Dh), float("nan"), dtype=dtype)
    return {
        "x": (torch.randn(B, G, T, D) * 3).to(dtype),
        "norm_weight": (torch.rand(D) + 0.5).to(dtype),
        "weight": (torch.randn((H + 2 * Hkv) * Dh, D) / D**0.5).to(dtype),
        "cos": cos,
        "sin": sin,
        "starts": torch.randint(0, POSITIONS - T + 1, (B, G)),
        "slots": torch.randint(0, S - T + 1, (B, G)),
        "suffix_k": cache,
        "suffix_v": cache.clone(),
        "eps": EPS,
    }


def definition(given: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """q (B, G, T, H, Dh), k and v (B, G, T, Hkv, Dh) in float64; rotary as complex numbers."""
    x, T = given["x"].double(), given["x"].shape[2]
    Hkv, Dh = given["suffix_k"].shape[2], given["suffix_k"].shape[4]
    normed = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * given["norm_weight"].double()
    k_rows, v_rows = (Hkv * Dh * n for n in (2, 1))
    weight = given["weight"].double()
    parts = weight[:-k_rows], weight[-k_rows:-v_rows], weight[-v_rows:]
    q, k, v = ((normed @ part.T).unflatten(-1, (-1, Dh)) for part in parts)
    positions = given["starts"][..., None] + torch.arange(T)
    angles = positions[..., None, None] * THETA ** (-torch.arange(Dh // 2).double() * 2 / Dh)
    turns = torch.polar(torch.ones_like(angles), angles)

    def turn(heads: Tensor) -> Tensor:
        turned = torch.complex(*heads.chunk(2, dim=-1)) * turns
        return torch.cat([turned.real, turned.imag], dim=-1)

    return turn(q), turn(k), v


def filled(given: dict[str, Any], new: Tensor) -> Tensor:
    """What a cache full of nan holds once new (B, G, T, Hkv, Dh) is written at the slots."""
    B, G, T = new.shape[:3]
    cache = torch.full(given["suffix_k"].shape, float("nan"), dtype=torch.float64)
    for b in range(B):
        for g in range(G):
            slot = int(given["slots"][b, g])
            cache[b, g, :, slot : slot + T] = new[b, g].transpose(0, 1)
    return cache


def assert_right(q: Tensor, given: dict[str, Any], expected: tuple[Tensor, ...]) -> None:
    dtype = given["x"].dtype
    assert q.dtype == dtype and q.shape == expected[0].shape
    assert_close("qkv_rope", q, expected[0], dtype)
    for cache, new in zip((given["suffix_k"], given["suffix_v"]), expected[1:], strict=True):
        held = filled(given, new)
        assert torch.equal(cache.isnan(), held.isnan())
        assert_close("qkv_rope", cache.nan_to_num(), held.nan_to_num(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition_and_writes_nothing_else(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    given = inputs(*shape, dtype=dtype)
    assert_right(qkv_rope(**given), given, definition(given))


@pytest.mark.parametrize("starts", [0, 1, 80])
def test_one_number_stands_for_all_rollouts(starts: int) -> None:
    given = inputs(2, 3, 2, 20, 2, 1, 8)
    given |= {"starts": torch.full((2, 3), starts), "slots": torch.full((2, 3), 4)}
    expected = definition(given)
    assert_right(qkv_rope(**given | {"starts": starts, "slots": 4}), given, expected)


def test_places_may_be_int32_and_strided() -> None:
    given = inputs(3, 4, 2, 20, 2, 1, 8)
    expected = definition(given)
    places = {name: given[name].int().T.contiguous().T for name in ("starts", "slots")}
    assert_right(qkv_rope(**given | places), given, expected)


def test_the_cache_may_be_part_of_another() -> None:
    given = inputs(2, 3, 2, 20, 2, 2, 8)
    S = given["suffix_k"].shape[3]
    whole = torch.full((S + 5, 3, 2, 2, 16), float("nan"))
    part = whole[3:-2, ..., 4:12].permute(2, 1, 3, 0, 4)
    given |= {"suffix_k": part, "suffix_v": part.clone()}
    assert_right(qkv_rope(**given), given, definition(given))
    assert whole.isfinite().sum() == part.isfinite().sum()


def test_x_and_weights_may_have_any_strides() -> None:
    given = inputs(2, 3, 2, 20, 2, 2, 8)
    expected = definition(given)
    for name in ("x", "weight", "cos", "sin"):
        given[name] = given[name].mT.contiguous().mT
    given["norm_weight"] = given["norm_weight"].repeat_interleave(2)[::2]
    assert_right(qkv_rope(**given), given, expected)


@pytest.mark.parametrize("B", [0, 2])
def test_no_rows_write_nothing(B: int) -> None:
    given = inputs(B, 3, 0, 20, 2, 1, 8)
    assert qkv_rope(**given).shape == (B, 3, 0, 2, 8)
    assert given["suffix_k"].isnan().all()
    assert fused.plan(**given)[0] == []


def test_autocast_changes_nothing() -> None:
    given = inputs(2, 3, 2, 40, 2, 1, 8)
    expected = qkv_rope(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(qkv_rope(**given), expected)


def test_only_the_reference_has_gradients(implementation: str) -> None:
    given = inputs(2, 3, 2, 20, 2, 1, 8)
    tensors = [given[name].requires_grad_() for name in ("x", "norm_weight", "weight")]
    if implementation == "triton":
        with pytest.raises(RuntimeError, match="qkv_rope has no backward in Triton"):
            qkv_rope(**given)
        with torch.no_grad():
            assert not qkv_rope(**given).requires_grad
        return
    grads = torch.autograd.grad(qkv_rope(**given).sin().sum(), tensors)
    expected = torch.autograd.grad(definition(given)[0].sin().sum(), tensors)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_is_out_of_range_on_a_device_harms_nothing_else() -> None:
    given = inputs(1, 5, 2, 20, 2, 1, 8)
    given["starts"] = torch.tensor([[3, -1, POSITIONS - 1, POSITIONS + 7, 5]])
    S = given["suffix_k"].shape[3]
    given["slots"] = torch.tensor([[S - 1, 2, 4, 5, -1]])
    expected = definition(given)
    # Past the check of the front door, which looks at places on CPUs only.
    q = fused.qkv_rope(**given)
    lost = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [0, 0]]).bool()
    assert q[0][lost].isnan().all()
    assert_close("qkv_rope", q[0][~lost], expected[0][0][~lost], torch.float32)
    written = given["suffix_v"][0, :, 0].isfinite().all(-1)
    places = [[S - 1], [2, 3], [4, 5], [5, 6], [0]]
    assert [row.nonzero().flatten().tolist() for row in written] == places
    values = given["suffix_v"][0, [0, 4], 0, [S - 1, 0]]
    assert_close("qkv_rope", values, expected[2][0, [0, 4], [0, 1], 0], torch.float32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": torch.zeros(2, 3, 4, 9)}, r"expected x .*, got \(2, 3, 4, 9\), \(10,\)"),
        ({"x": torch.zeros(3, 2, 4, 10)}, "expected x"),
        ({"x": torch.zeros(3, 4, 10)}, "expected x"),
        ({"norm_weight": torch.ones(9)}, "expected x"),
        ({"weight": torch.zeros(32, 10)}, "expected x"),
        ({"weight": torch.zeros(2 * 2 * 6, 10)}, "none of D, H, Hkv and Dh 0"),
        ({"cos": torch.zeros(50, 4), "sin": torch.zeros(50, 4)}, "expected x"),
        ({"sin": torch.zeros(49, 6)}, "expected x"),
        ({"suffix_v": torch.zeros(2, 3, 2, 9, 6)}, "expected x"),
        ({"x": torch.zeros(2, 3, 4, 10).half()}, "must be float32, all else one of"),
        ({"cos": torch.zeros(50, 6).half()}, "must be float32, all else one of"),
        ({"suffix_v": torch.zeros(2, 3, 2, 8, 6).half()}, "must be float32, all else one of"),
        ({"suffix_k": torch.zeros(2, 3, 2, 6, 8).mT}, "must be contiguous"),
        ({"starts": torch.zeros(2, 3)}, r"starts must be a number or \(2, 3\) int32 or int64"),
        ({"slots": torch.zeros(3).long()}, r"slots must be a number or \(2, 3\) int32 or int64"),
        ({"starts": 47}, "starts 47 to 47 and 4 tokens .* do not fit into the rotary tables of 50"),
        ({"slots": -1}, "slots -1 to -1 .* do not fit into the cache of 8"),
        ({"slots": torch.tensor([[0, 1, 2], [5, 3, 4]])}, "slots 0 to 5 and 4 tokens"),
        ({"starts": torch.tensor([[0, -2, 2], [5, 3, 4]])}, "starts -2 to 5 and 4 tokens"),
    ],
)
def test_what_does_not_fit_is_an_error(wrong: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {
        "x": torch.zeros(2, 3, 4, 10),
        "norm_weight": torch.ones(10),
        "weight": torch.zeros((1 + 2 * 2) * 6, 10),
        "cos": torch.zeros(50, 6),
        "sin": torch.zeros(50, 6),
        "starts": 46,
        "slots": torch.tensor([[0, 1, 2], [4, 3, 4]]),
        "suffix_k": torch.zeros(2, 3, 2, 8, 6),
        "suffix_v": torch.zeros(2, 3, 2, 8, 6),
        "eps": EPS,
    }
    qkv_rope(**right)
    with pytest.raises(ValueError, match=message):
        qkv_rope(**(right | wrong))


def test_one_launch_that_reads_positions_on_the_device() -> None:
    given = inputs(1, 16, 1, 768, 12, 12, 64, dtype=torch.bfloat16)
    launches, q = fused.plan(**given)
    assert [(launch.name, launch.grid, launch.matrix) for launch in launches] == [
        ("_qkv_rope", (36, 1), True)
    ]
    args = launches[0].args
    assert args["q"] is q
    for name in ("starts", "slots", "suffix_k", "suffix_v"):
        assert args[name] is given[name]
