"""Group attention in Triton: one pass over each key and value, in two launches.

`_prefix`: the G * Tq * R queries (R = H / Hkv) that meet the same keys of a context form one matrix
tile, so that its prefix is read once for all of them and tensor cores do the work. Where contexts
are few, the prefix is cut into splits. Each leaves its maximum, its sum of exponentials and its
unnormalised output in fp32.
`_suffix`: the Tq * R queries of a rollout meet its own suffix, up to its own length, and the
splits of the prefix are merged into the result by rescaling to the larger maximum.

Grids depend on shapes alone, lengths are read on the device: a CUDA graph replays at any lengths.
There is no backward.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# (the parameters of kernels are pointers and numbers, which Python's types have no names for)

from __future__ import annotations

from functools import cache
from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vidwm_kernels.add_linear.fused import dot, refuse_gradients
from vidwm_kernels.launch import Launch, run_all

# SMs of an H100 SXM: what a plan is for where no GPU can be asked.
DEFAULT_SMS = 132
LOG2_E = 1.4426950408889634
# Bytes of keys and values on their way to a program.
IN_FLIGHT = 64 * 1024


@triton.jit
def _attend(
    q, keys, values, key_stride, value_stride, begin, end, limits, scale,
    D: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Online softmax over positions begin .. end - 1; a row sees those below its limit.

    q (BLOCK_M, BLOCK_D) -> maximum and sum (BLOCK_M,), output (BLOCK_M, BLOCK_D). Maxima are of
    scores times log2(e). Every row must see a position of the first block.
    """
    d = tl.arange(0, BLOCK_D)
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in tl.range(begin, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        # Rows from `end` on are not read at all: they may hold NaN, and cost bandwidth.
        inside = (n < end)[:, None] & (d < D)[None, :]
        row = tl.multiple_of(n.to(tl.int64) * key_stride, ALIGN)
        k = tl.load(keys + row[:, None] + d[None, :], mask=inside, other=0.0)
        row = tl.multiple_of(n.to(tl.int64) * value_stride, ALIGN)
        v = tl.load(values + row[:, None] + d[None, :], mask=inside, other=0.0)
        scores = dot(q, tl.trans(k), tl.zeros((BLOCK_M, BLOCK_N), tl.float32)) * scale
        scores = tl.where(n[None, :] < limits, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weights, 1)
        out = dot(weights.to(v.dtype), v, out * shrink[:, None])
        top = higher
    return top, total, out


@triton.jit(do_not_specialize=["P"])
def _prefix(
    q, keys, values, tops, totals, outs,
    q_b, q_g, q_t, q_h, k_b, k_h, k_n, v_b, v_h, v_n,
    B, Hkv, G, Tq, R, P, tiles, splits, scale,
    D: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program per context, key head, split and tile of queries.

    Rows are ordered (G, Tq, R). -> tops and totals (splits, B, Hkv, G*Tq*R), outs (..., D).
    """
    program = tl.program_id(0)
    # Tiles that read the same keys are neighbours, so that L2 serves the later ones.
    tile, program = program % tiles, program // tiles
    split, context = program % splits, program // splits
    b, h = (context // Hkv).to(tl.int64), (context % Hkv).to(tl.int64)

    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    M = G * Tq * R
    g, t, r = rows // R // Tq, rows // R % Tq, rows % R
    d = tl.arange(0, BLOCK_D)
    inside = (rows < M)[:, None] & (d < D)[None, :]
    place = b * q_b + g.to(tl.int64) * q_g + t.to(tl.int64) * q_t + (h * R + r) * q_h
    place = tl.multiple_of(place, ALIGN)
    queries = tl.load(q + place[:, None] + d[None, :], mask=inside, other=0.0)

    chunk = tl.cdiv(tl.cdiv(P, splits), BLOCK_N) * BLOCK_N
    begin = split * chunk
    end = tl.minimum(begin + chunk, P)
    top, total, out = _attend(
        queries,
        keys + tl.multiple_of(b * k_b + h * k_h, ALIGN),
        values + tl.multiple_of(b * v_b + h * v_h, ALIGN),
        k_n, v_n, begin, end, end, scale, D, ALIGN, BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip

    row = (split.to(tl.int64) * B * Hkv + context) * M + rows
    tl.store(tops + row, top, mask=rows < M)
    tl.store(totals + row, total, mask=rows < M)
    tl.store(outs + row[:, None] * D + d[None, :], out, mask=inside)


@triton.jit(do_not_specialize=["length"])
def _suffix(
    q, keys, values, lengths, length, tops, totals, outs, result,
    q_b, q_g, q_t, q_h, k_b, k_g, k_h, k_n, v_b, v_g, v_h, v_n,
    B, Hkv, G, Tq, R, tiles, scale,
    SPLITS: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program per rollout, key head and tile of queries; rows are ordered (Tq, R)."""
    program = tl.program_id(0)
    tile, program = program % tiles, program // tiles
    h, rollout = (program % Hkv).to(tl.int64), (program // Hkv).to(tl.int64)
    b, g = rollout // G, rollout % G

    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    M = Tq * R
    t, r = rows // R, rows % R
    d = tl.arange(0, BLOCK_D)
    inside = (rows < M)[:, None] & (d < D)[None, :]
    place = b * q_b + g * q_g + t.to(tl.int64) * q_t + (h * R + r) * q_h
    place = tl.multiple_of(place, ALIGN)
    queries = tl.load(q + place[:, None] + d[None, :], mask=inside, other=0.0)

    if lengths is not None:
        length = tl.load(lengths + rollout).to(tl.int32)
    # What the first query of the block sees; each later one sees one position more.
    first = length - Tq + 1
    end = first + tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // R, Tq - 1)
    top, total, out = _attend(
        queries,
        keys + tl.multiple_of(b * k_b + g * k_g + h * k_h, ALIGN),
        values + tl.multiple_of(b * v_b + g * v_g + h * v_h, ALIGN),
        k_n, v_n, 0, end, (first + t)[:, None], scale, D, ALIGN, BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip

    # Unrolled, so that the loads of all splits are under way together.
    for split in tl.static_range(SPLITS):
        row = ((tl.full((), split, tl.int64) * B + b) * Hkv + h) * G * M + g * M + rows
        part_top = tl.load(tops + row, mask=rows < M, other=float("-inf"))
        part_total = tl.load(totals + row, mask=rows < M, other=0.0)
        part = tl.load(outs + row[:, None] * D + d[None, :], mask=inside, other=0.0)
        higher = tl.maximum(top, part_top)
        ours, theirs = tl.exp2(top - higher), tl.exp2(part_top - higher)
        total = total * ours + part_total * theirs
        out = out * ours[:, None] + part * theirs[:, None]
        top = higher
    place = (rollout * Tq + t) * (Hkv * R) + h * R + r
    out = (out / total[:, None]).to(result.dtype.element_ty)
    tl.store(result + place[:, None] * D + d[None, :], out, mask=inside)


def group_attention(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    suffix_k: Tensor,
    suffix_v: Tensor,
    suffix_lengths: Tensor | int,
) -> Tensor:
    """The operation of the package's `__init__`."""
    refuse_gradients("group_attention", q, prefix_k, prefix_v, suffix_k, suffix_v)
    launches, out = plan(q, prefix_k, prefix_v, suffix_k, suffix_v, suffix_lengths)
    with torch.cuda.device_of(q):
        run_all(launches)
    return out


def plan(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    suffix_k: Tensor,
    suffix_v: Tensor,
    suffix_lengths: Tensor | int,
    *,
    splits: int | None = None,
) -> tuple[list[Launch], Tensor]:
    """The launches that compute what `group_attention` returns, and the tensor they will fill.

    splits: into how many parts the prefix is cut; by default what `num_splits` says.
    """
    B, G, Tq, H, D = q.shape
    Hkv, P = prefix_k.shape[1:3]
    R = H // Hkv
    out = torch.empty((B, G, Tq, H, D), dtype=q.dtype, device=q.device)
    # Rows of D must be contiguous to be loaded 16 bytes at a time; other strides are free.
    q, prefix_k, prefix_v, suffix_k, suffix_v = (
        x if x.stride(-1) == 1 else x.contiguous()
        for x in (q, prefix_k, prefix_v, suffix_k, suffix_v)
    )
    rows, own_rows = G * Tq * R, Tq * R
    block, settings = tiles(rows, D, q.dtype)
    if splits is None:
        splits = num_splits(B * Hkv, rows, P, D, q.element_size(), block, sms(q.device))
    partial = (splits, B, Hkv, rows)
    shared = {
        "q": q,
        "tops": torch.empty(partial, device=q.device),
        "totals": torch.empty(partial, device=q.device),
        "outs": torch.empty((*partial, D), device=q.device),
        **_strides("q", q, "bgth"),
        **{"B": B, "Hkv": Hkv, "G": G, "Tq": Tq, "R": R, "scale": D**-0.5 * LOG2_E},
    }
    matrix = q.dtype != torch.float32
    query_tiles = triton.cdiv(rows, block["BLOCK_M"])
    prefix = Launch(
        kernel=_prefix,
        grid=(B * Hkv * splits * query_tiles,),
        args=shared
        | {"keys": prefix_k, "values": prefix_v}
        | {"P": P, "tiles": query_tiles, "splits": splits}
        | _strides("k", prefix_k, "bhn")
        | _strides("v", prefix_v, "bhn"),
        constants=block | {"D": D, "ALIGN": _alignment(q, prefix_k, prefix_v)},
        matrix=matrix,
        **settings,
    )
    block, settings = tiles(own_rows, D, q.dtype)
    own_tiles = triton.cdiv(own_rows, block["BLOCK_M"])
    ragged = isinstance(suffix_lengths, Tensor)
    suffix = Launch(
        kernel=_suffix,
        grid=(B * G * Hkv * own_tiles,),
        args=shared
        | {"keys": suffix_k, "values": suffix_v, "result": out, "tiles": own_tiles}
        | {"lengths": suffix_lengths if ragged else None}
        | {"length": 0 if ragged else suffix_lengths}
        | _strides("k", suffix_k, "bghn")
        | _strides("v", suffix_v, "bghn"),
        constants=block | {"SPLITS": splits, "D": D, "ALIGN": _alignment(q, suffix_k, suffix_v)},
        matrix=matrix,
        **settings,
    )
    return [prefix, suffix], out


def tiles(rows: int, D: int, dtype: torch.dtype) -> tuple[dict[str, int], dict[str, Any]]:
    """Block sizes for `rows` queries that meet the same keys, then warps and stages."""
    block_d = max(16, triton.next_power_of_2(D))
    wide = block_d * dtype.itemsize  # bytes of a row of keys
    block_m = min(max(16, triton.next_power_of_2(rows)), 128 if wide <= 256 else 64)
    block_n = 64 if wide <= 256 else 32
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_D": block_d}
    return blocks, {
        "num_warps": 8 if block_m > 64 or block_m * block_d > 4096 else 4,
        "num_stages": max(2, min(4, IN_FLIGHT // (2 * block_n * wide))),
    }


def num_splits(
    heads: int, rows: int, P: int, D: int, size: int, block: dict[str, int], sms: int
) -> int:
    """Into how many parts to cut the prefix of each of `heads` = B * Hkv."""
    programs = heads * triton.cdiv(rows, block["BLOCK_M"])
    wanted = triton.cdiv(2 * sms, programs)
    cost = rows * (D * size + 2 * 4 * (D + 2))
    affordable = 2 * P * D * size // (2 * cost)
    blocks = triton.cdiv(P, block["BLOCK_N"])
    splits = max(1, min(wanted, affordable, blocks))
    return triton.cdiv(blocks, triton.cdiv(blocks, splits))


@cache
def sms(device: torch.device) -> int:
    """Streaming multiprocessors of a device; those of an H100 where it is not a GPU."""
    if device.type != "cuda":
        return DEFAULT_SMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _strides(name: str, x: Tensor, dims: str) -> dict[str, int]:
    return {f"{name}_{dim}": x.stride(i) for i, dim in enumerate(dims)}


def _alignment(*tensors: Tensor) -> int:
    """The largest power of two up to 16 that divides all strides, in elements."""
    return gcd(16, *(stride for x in tensors for stride in x.stride()[:-1]))
