"""LPIPS between feature maps in Triton: every map is read once, nothing of its size is written.

A program takes a few places of one image with all of their channels, so a place's length, the
difference to the true map and its weighted square are made in registers. It leaves one number; a
last launch adds those of all stages. One launch a stage: their widths differ, and a stage's
convolutions take a hundred times as long as its launch. The backward pass reads the maps once more.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# (the parameters of kernels are pointers and numbers, which Python's types have no names for)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vidwm_kernels.launch import Launch, run_all
from vidwm_kernels.lpips_distance import EPS

ELEMENTS = 4096  # of a program's tile, of either map


# Programs of one place and all images are neighbours, so that L2 serves the shared true map.
@triton.jit
def _difference(
    pred, true, index, a_m, a_c, a_y, a_x, P_m, W, eps,
    C: tl.constexpr, PLACES: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """a / |a|, a / |a| - b, 1 / |a| (0 where a has no length), and what of the tile is inside."""
    m = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * PLACES + tl.arange(0, PLACES).to(tl.int64)
    c = tl.arange(0, BLOCK_C).to(tl.int64)
    inside = (place < P_m)[:, None] & (c < C)[None, :]
    at = m * a_m + (place // W * a_y + place % W * a_x)[:, None] + (c * a_c)[None, :]
    a = tl.load(pred + at, mask=inside, other=0.0).to(tl.float32)
    row = tl.load(index + m)
    b = tl.load(true + (row * P_m + place)[:, None] * C + c[None, :], mask=inside, other=0.0)
    length = tl.sqrt(tl.sum(a * a, 1))
    inverse = 1 / tl.maximum(length, eps)
    unit = a * inverse[:, None]
    return unit, unit - b, inverse, length > eps, inside, at, place, c


@triton.jit
def _stage(
    pred, true, head, index, partials, a_m, a_c, a_y, a_x, P_m, W, first, tiles, eps,
    C: tl.constexpr, PLACES: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """partials (M, tiles of all stages): this stage's from `first` on."""
    _, difference, _, _, _, _, _, c = _difference(
        pred, true, index, a_m, a_c, a_y, a_x, P_m, W, eps, C, PLACES, BLOCK_C
    )
    weight = tl.load(head + c, mask=c < C, other=0.0)
    total = tl.sum(tl.sum(difference * difference * weight[None, :], 1), 0) / P_m
    tl.store(partials + tl.program_id(0).to(tl.int64) * tiles + first + tl.program_id(1), total)


@triton.jit
def _add(partials, out, tiles, BLOCK: tl.constexpr):
    """partials (M, tiles) -> out (M,)."""
    m = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, tiles, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        total += tl.load(partials + m * tiles + tile, mask=tile < tiles, other=0.0)
    tl.store(out + m, tl.sum(total, 0))


@triton.jit
def _stage_backward(
    pred, true, head, index, grad, result, a_m, a_c, a_y, a_x, P_m, W, eps,
    C: tl.constexpr, PLACES: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of pred, in its layout: that of u = a / |a|, less its part along u, over |a|."""
    unit, difference, inverse, long, inside, at, _, c = _difference(
        pred, true, index, a_m, a_c, a_y, a_x, P_m, W, eps, C, PLACES, BLOCK_C
    )
    weight = tl.load(head + c, mask=c < C, other=0.0)
    outer = tl.load(grad + tl.program_id(0)) * 2 / P_m
    inner = difference * weight[None, :] * outer
    along = tl.where(long, tl.sum(inner * unit, 1), 0.0)
    value = (inner - unit * along[:, None]) * inverse[:, None]
    tl.store(result + at, value.to(result.dtype.element_ty), mask=inside)


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, index: Tensor, stages: int, *tensors: Tensor) -> Tensor:
        pred, true, heads = (tensors[i * stages : (i + 1) * stages] for i in range(3))
        launches, out = plan(pred, true, heads, index)
        ctx.save_for_backward(index, *tensors)
        with torch.cuda.device_of(index):
            run_all(launches)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Any, ...]:
        index, *tensors = ctx.saved_tensors
        stages = len(tensors) // 3
        pred, true, heads = (tensors[i * stages : (i + 1) * stages] for i in range(3))
        launches, results = plan_backward(pred, true, heads, index, grad.contiguous())
        with torch.cuda.device_of(index):
            run_all(launches)
        return None, None, *results, *[None] * (2 * stages)


def lpips_distance(
    pred: Sequence[Tensor], true: Sequence[Tensor], heads: Sequence[Tensor], index: Tensor
) -> Tensor:
    """The operation of the package's `__init__`."""
    out: Tensor = _Distance.apply(index, len(pred), *pred, *true, *heads)
    return out


def plan(
    pred: Sequence[Tensor], true: Sequence[Tensor], heads: Sequence[Tensor], index: Tensor
) -> tuple[list[Launch], Tensor]:
    """The launches that compute what `lpips_distance` returns, and the tensor they will fill."""
    M = len(index)
    out = torch.empty(M, device=index.device)
    if not M:
        return [], out
    shapes = [_stage_args(*stage, index) for stage in zip(pred, true, heads, strict=True)]
    counts = [triton.cdiv(args["P_m"], constants["PLACES"]) for args, constants in shapes]
    partials = torch.empty((M, sum(counts)), device=index.device)
    launches, first = [], 0
    for (args, constants), count in zip(shapes, counts, strict=True):
        args |= {"partials": partials, "first": first, "tiles": sum(counts)}
        launches.append(
            Launch(kernel=_stage, grid=(M, count), args=args, constants=constants, streams=True)
        )
        first += count
    args = {"partials": partials, "out": out, "tiles": sum(counts)}
    launches.append(
        Launch(kernel=_add, grid=(M,), args=args, constants={"BLOCK": 128}, num_warps=1)
    )
    return launches, out


def plan_backward(
    pred: Sequence[Tensor],
    true: Sequence[Tensor],
    heads: Sequence[Tensor],
    index: Tensor,
    grad: Tensor,
) -> tuple[list[Launch], list[Tensor]]:
    """The launches of the gradients of `pred` for grad (M,), and the tensors they will fill."""
    # Maps that overlap in memory (expanded ones) cannot hold a gradient each.
    pred = [
        a if a.is_contiguous(memory_format=torch.channels_last) else a.contiguous() for a in pred
    ]
    results = [torch.empty_like(a) for a in pred]
    launches = []
    for a, b, head, result in zip(pred, true, heads, results, strict=True):
        args, constants = _stage_args(a, b, head, index)
        args |= {"grad": grad, "result": result}
        grid = (len(index), triton.cdiv(args["P_m"], constants["PLACES"]))
        if len(index):
            launches.append(
                Launch(kernel=_stage_backward, grid=grid, args=args, constants=constants)
            )
    return launches, results


def _stage_args(
    a: Tensor, b: Tensor, head: Tensor, index: Tensor
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and constants of a launch over one stage."""
    _, C, h, w = a.shape
    block_c = triton.next_power_of_2(C)
    args = {
        "pred": a,
        "true": b.contiguous(memory_format=torch.channels_last),
        "head": head.contiguous(),
        "index": index.contiguous(),
        **dict(zip(("a_m", "a_c", "a_y", "a_x"), a.stride(), strict=True)),
        **{"P_m": h * w, "W": w, "eps": EPS},
    }
    places = max(1, min(ELEMENTS // block_c, triton.next_power_of_2(h * w)))
    return args, {"C": C, "PLACES": places, "BLOCK_C": block_c}
