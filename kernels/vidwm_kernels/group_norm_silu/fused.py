"""GroupNorm and SiLU in Triton: a map is read for its statistics, read again, and written.

`_moments` leaves mean and sum of squared deviations of every group in a tile of places, `_merge`
joins the tiles of an image as one joins samples (Chan et al., 1983), `_apply` normalises. Maps of a
decoder's wide levels exceed on-chip memory, so two readings cannot be avoided; of the small ones
the second comes from L2. Channels-last: a place's channels lie together and are loaded 16 bytes a
thread.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# (the parameters of kernels are pointers and numbers, which Python's types have no names for)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vidwm_kernels.launch import Launch, run_all

ELEMENTS = 8192  # of a program's tile
TILES_AT_A_TIME = 64


@triton.jit
def _tile(
    x, P, C: tl.constexpr, CG: tl.constexpr, GROUPS: tl.constexpr, CG_BLOCK: tl.constexpr,
    PLACES: tl.constexpr,
):  # fmt: skip
    """A tile (PLACES, GROUPS * CG_BLOCK) in fp32, where it lies, what of it is inside, channels."""
    place = tl.program_id(1) * PLACES + tl.arange(0, PLACES).to(tl.int64)
    column = tl.arange(0, GROUPS * CG_BLOCK)
    if CG == CG_BLOCK:
        channel = column
        inside = (place < P)[:, None] & (channel < C)[None, :]
    else:
        channel = column // CG_BLOCK * CG + column % CG_BLOCK
        inside = (place < P)[:, None] & ((column % CG_BLOCK < CG) & (channel < C))[None, :]
    at = (tl.program_id(0).to(tl.int64) * P + place)[:, None] * C + channel[None, :]
    return tl.load(x + at, mask=inside, other=0.0).to(tl.float32), at, inside, channel


@triton.jit
def _moments(
    x, partials, P, tiles, groups,
    C: tl.constexpr, CG: tl.constexpr, GROUPS: tl.constexpr, CG_BLOCK: tl.constexpr,
    PLACES: tl.constexpr,
):  # fmt: skip
    """partials (M, 2, tiles, groups): mean and sum of squared deviations."""
    tile = tl.program_id(1)
    values, _, inside, _ = _tile(x, P, C, CG, GROUPS, CG_BLOCK, PLACES)
    count = tl.minimum(PLACES, P - tile * PLACES) * CG
    mean = tl.sum(tl.reshape(tl.sum(values, 0), (GROUPS, CG_BLOCK)), 1) / count
    spread = tl.reshape(tl.broadcast_to(mean[:, None], (GROUPS, CG_BLOCK)), (GROUPS * CG_BLOCK,))
    deviation = tl.where(inside, values - spread[None, :], 0.0)
    squares = tl.sum(tl.reshape(tl.sum(deviation * deviation, 0), (GROUPS, CG_BLOCK)), 1)
    g = tl.arange(0, GROUPS)
    place = partials + (tl.program_id(0).to(tl.int64) * 2 * tiles + tile) * groups + g
    tl.store(place, mean, mask=g < groups)
    tl.store(place + tiles * groups, squares, mask=g < groups)


@triton.jit
def _merge(
    partials, moments, P, tiles, groups, eps,
    CG: tl.constexpr, GROUPS: tl.constexpr, PLACES: tl.constexpr, AT_A_TIME: tl.constexpr,
):  # fmt: skip
    """moments (M, 2, groups): mean and 1 / sqrt(variance + eps); means first, then spreads."""
    m, g = tl.program_id(0).to(tl.int64), tl.arange(0, GROUPS)
    start = partials + m * 2 * tiles * groups
    total = tl.zeros((GROUPS,), tl.float32)
    for first in range(0, tiles, AT_A_TIME):
        tile = first + tl.arange(0, AT_A_TIME)
        inside = (tile < tiles)[:, None] & (g < groups)[None, :]
        means = tl.load(start + tile[:, None] * groups + g[None, :], mask=inside, other=0.0)
        count = tl.minimum(PLACES, P - tile * PLACES) * CG
        total += tl.sum(means * tl.where(tile < tiles, count, 0)[:, None], 0)
    mean = total / (P * CG)
    total = tl.zeros((GROUPS,), tl.float32)
    for first in range(0, tiles, AT_A_TIME):
        tile = first + tl.arange(0, AT_A_TIME)
        inside = (tile < tiles)[:, None] & (g < groups)[None, :]
        at = start + tile[:, None] * groups + g[None, :]
        means = tl.load(at, mask=inside, other=0.0)
        squares = tl.load(at + tiles * groups, mask=inside, other=0.0)
        apart = tl.where(inside, means - mean[None, :], 0.0)
        count = tl.minimum(PLACES, P - tile * PLACES) * CG
        total += tl.sum(squares + apart * apart * count[:, None], 0)
    tl.store(moments + m * 2 * groups + g, mean, mask=g < groups)
    deviation = tl.rsqrt(total / (P * CG) + eps)
    tl.store(moments + (m * 2 + 1) * groups + g, deviation, mask=g < groups)


@triton.jit
def _apply(
    x, moments, weight, bias, out, P, groups,
    C: tl.constexpr, CG: tl.constexpr, GROUPS: tl.constexpr, CG_BLOCK: tl.constexpr,
    PLACES: tl.constexpr,
):  # fmt: skip
    values, at, inside, channel = _tile(x, P, C, CG, GROUPS, CG_BLOCK, PLACES)
    known = channel < C
    start = moments + tl.program_id(0).to(tl.int64) * 2 * groups
    mean = tl.load(start + channel // CG, mask=known, other=0.0)
    deviation = tl.load(start + groups + channel // CG, mask=known, other=0.0)
    scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32) * deviation
    shift = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    y = (values - mean[None, :]) * scale[None, :] + shift[None, :]
    y = y / (1 + tl.exp(-y))
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, *, eps: float) -> Tensor:
    """The operation of the package's `__init__`, without gradients."""
    launches, out = plan(x, weight, bias, groups, eps=eps)
    with torch.cuda.device_of(x):
        run_all(launches)
    return out


def plan(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, *, eps: float
) -> tuple[list[Launch], Tensor]:
    """The launches that compute what `group_norm_silu` returns, and the tensor they will fill."""
    M, C, h, w = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    if not x.numel():
        return [], out
    constants: dict[str, Any] = {
        "CG": C // groups,
        "GROUPS": triton.next_power_of_2(groups),
        "CG_BLOCK": triton.next_power_of_2(C // groups),
    }
    width = constants["GROUPS"] * constants["CG_BLOCK"]
    constants["PLACES"] = max(1, min(ELEMENTS // width, triton.next_power_of_2(h * w)))
    tiles = triton.cdiv(h * w, constants["PLACES"])
    partials = torch.empty((M, 2, tiles, groups), device=x.device)
    moments = torch.empty((M, 2, groups), device=x.device)
    shape = {"P": h * w, "groups": groups}
    merged = {k: constants[k] for k in ("CG", "GROUPS", "PLACES")}
    return [
        Launch(
            kernel=_moments,
            grid=(M, tiles),
            args={"x": x, "partials": partials, "tiles": tiles} | shape,
            constants=constants | {"C": C},
            streams=True,
        ),
        Launch(
            kernel=_merge,
            grid=(M,),
            args={"partials": partials, "moments": moments, "tiles": tiles, "eps": eps} | shape,
            constants=merged | {"AT_A_TIME": TILES_AT_A_TIME},
        ),
        Launch(
            kernel=_apply,
            grid=(M, tiles),
            args={"x": x, "moments": moments, "out": out}
            | {"weight": weight.contiguous(), "bias": bias.contiguous()}
            | shape,
            constants=constants | {"C": C},
            streams=True,
        ),
    ], out
