"""Products of few rows with a large matrix, in Triton: `product`, and residual + x W^T around it.

While decoding, a step multiplies R = B * G * Tq rows, often fewer than 16, with every weight of the
model. Reading the weights bounds it, so what counts is that each is read once, 16 bytes at a time,
with enough loads under way, and that nothing waits for anything else.

Up to 32 rows, a tile of the result is too small for several warps to share, and one sum over K is
a long chain of dependent instructions. So a block of BLOCK_K is cut into SLICES, one a warp: a
batched product (SLICES, rows, columns), of which the slices are added up at the end, always in the
same order. Splitting K across programs instead would need a second launch or atomics.

`gate_up` and `qkv_rope` norm their rows and multiply them with two sets of weight rows, whose
results meet in registers. The scale of a row's RMSNorm is one number, so it may wait until after
the product, and its sum of squares is gathered in the same pass.
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

# Programs that can draw the full bandwidth of memory. By its data sheet an SM of an H100 receives
# 64 bytes a clock, 110 GB/s, so 31 of them do; not measured.
PROGRAMS = 36
# Bytes of tiles on their way to a program: what every GPU since Ampere has room for, 99 KB, less
# what the compiler needs to exchange operands.
IN_FLIGHT = 80 * 1024
# Triton's interpreter (3.8) multiplies the bits of bf16 matrices as integers; as fp32 it is right.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def dot(a, b, c):
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, c, input_precision="ieee")


@triton.jit
def _halve(x, M: tl.constexpr, N: tl.constexpr, SLICES: tl.constexpr):
    first, second = tl.split(tl.reshape(x, (M, N, SLICES // 2, 2)))
    return first + second


@triton.jit
def _add_slices(x, M: tl.constexpr, N: tl.constexpr, SLICES: tl.constexpr):
    """(8, M, N) -> (M, N), as a tree: one exchange between warps, where tl.sum makes a dozen."""
    tl.static_assert(SLICES == 8)
    x = tl.permute(x, (1, 2, 0))
    x = _halve(_halve(_halve(x, M, N, 8), M, N, 4), M, N, 2)
    return tl.reshape(x, (M, N))


@triton.jit
def product(
    x, norm_weight, weight, rows, R, first, second, inside,
    K: tl.constexpr, SCALE: tl.constexpr, SLICES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """x (R, K) at rows (BLOCK_M,) times two sets of rows of weight (., K) -> fp32.

    first, second, inside (BLOCK_N,): which rows, and whether they are wanted. Returns two
    (BLOCK_M, BLOCK_N) and the sum of squares of each row of x (BLOCK_M,). With a norm_weight (K,),
    columns of x are multiplied with it, times SCALE, first. Without `second` or norm_weight, what
    they would give is meaningless.
    """
    PART: tl.constexpr = BLOCK_K // SLICES
    if SLICES == 1:
        across, down = tl.arange(0, BLOCK_K)[None, :], tl.arange(0, BLOCK_K)[:, None]
        row, inside, first = rows[:, None], inside[None, :], first[None, :]
        if second is not None:
            second = second[None, :]
        a = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        squares = tl.zeros((BLOCK_M,), tl.float32)
    else:
        part = tl.arange(0, SLICES)[:, None, None] * PART
        across, down = (
            part + tl.arange(0, PART)[None, None, :],
            part + tl.arange(0, PART)[None, :, None],
        )
        row, inside, first = rows[None, :, None], inside[None, None, :], first[None, None, :]
        if second is not None:
            second = second[None, None, :]
        a = tl.zeros((SLICES, BLOCK_M, BLOCK_N), tl.float32)
        squares = tl.zeros((SLICES, BLOCK_M), tl.float32)
    b = a
    x += row.to(tl.int64) * K
    for start in range(0, K, BLOCK_K):
        k = start + across
        piece = tl.load(x + k, mask=(row < R) & (k < K), other=0.0)
        if norm_weight is not None:
            wide = piece.to(tl.float32)
            squares += tl.sum(wide * wide, -1)
            norm = tl.load(norm_weight + k, mask=k < K, other=0.0).to(tl.float32)
            piece = (wide * (norm * SCALE)).to(piece.dtype)
        k = start + down
        w = tl.load(weight + first.to(tl.int64) * K + k, mask=inside & (k < K), other=0.0)
        a = dot(piece, w, a)
        if second is not None:
            w = tl.load(weight + second.to(tl.int64) * K + k, mask=inside & (k < K), other=0.0)
            b = dot(piece, w, b)
    if SLICES > 1:
        a = _add_slices(a, BLOCK_M, BLOCK_N, SLICES)
        if second is not None:
            b = _add_slices(b, BLOCK_M, BLOCK_N, SLICES)
        squares = tl.sum(squares, 0)
    return a, b, squares


@triton.jit
def _add_linear(
    residual, x, weight, out, R, N,
    K: tl.constexpr, SLICES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    y, _, _ = product(
        x, None, weight, rows, R, columns, None, columns < N,
        K, 1.0, SLICES, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    place = rows.to(tl.int64)[:, None] * N + columns[None, :]
    inside = (rows < R)[:, None] & (columns < N)[None, :]
    y += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, y.to(out.dtype.element_ty), mask=inside)


def add_linear(residual: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The operation of the package's `__init__`."""
    refuse_gradients("add_linear", residual, x, weight)
    launches, out = plan(residual, x, weight)
    with torch.cuda.device_of(x):
        run_all(launches)
    return out


def plan(residual: Tensor, x: Tensor, weight: Tensor) -> tuple[list[Launch], Tensor]:
    """The launches that compute what `add_linear` returns, and the tensor they will fill."""
    N, K = weight.shape
    out = torch.empty(residual.shape, dtype=x.dtype, device=x.device)
    R = out.numel() // N
    if R == 0:
        return [], out
    args = {
        "residual": residual.contiguous(),
        "x": x.contiguous(),
        "weight": weight.contiguous(),
        "out": out,
        **{"R": R, "N": N},
    }
    return [launch(_add_linear, args, R, N, 1, x.dtype, K=K)], out


def launch(
    kernel: Any,
    args: dict[str, Any],
    R: int,
    N: int,
    sets: int,
    dtype: torch.dtype,
    **constants: Any,
) -> Launch:
    """A launch of a kernel around `product`: R x N results, for each `sets` rows of the weight."""
    blocks, settings = tiles(R, N, sets, dtype)
    return Launch(
        kernel=kernel,
        grid=(triton.cdiv(N, blocks["BLOCK_N"]), triton.cdiv(R, blocks["BLOCK_M"])),
        args=args,
        constants=constants | blocks,
        matrix=dtype != torch.float32,
        **settings,
    )


def tiles(R: int, N: int, sets: int, dtype: torch.dtype) -> tuple[dict[str, int], dict[str, Any]]:
    """Blocks of a kernel around `product`, then its warps and stages.

    Every program reads its rows of x in full, from L2 where another has read them: wide tiles spare
    L2, narrow ones make the programs that draw bandwidth from memory, and are halved until there
    are PROGRAMS. Splitting K costs more than it spares, for its partial sums are fp32 and travel
    twice. In bf16 at R = 16, D = 768, F = 3072 a program's tile has

        qkv_rope     2 x 32 columns, 36 programs, 1.28 times the bytes that must be moved
        gate_up      2 x 64 columns, 48 programs, 1.13
        add_linear       16 columns, 48 programs, 1.92 (K = 768), 1.95 (K = 3072)

    of which 1.00 from memory and the rest from L2, while the weights arrive. To stay within 1.15,
    qkv_rope could have 22 programs and add_linear 8, too few to draw the bandwidth. The weights are
    read once up to 128 rows, in add_linear up to 64: beyond, tiles of 64 x 32 read a third less in
    all than tiles of 128 x 16.

    From 33 rows on, warps share a tile (on Hopper as warp groups, which need 64 rows), and its
    blocks of K are shorter. fp32 at full precision has no tensor cores; its operands go through
    registers, so blocks are smaller.
    """
    half = dtype != torch.float32
    if R <= 32:
        block_m, slices, warps = 16 if R <= 16 else 32, 8, 8
        block_n = 64 if half else 512 // block_m
        block_k = 256 if half and sets == 1 else 128
    else:
        wide = half and R > 64 and (sets == 2 or R > 512)
        block_m = 128 if wide else 64
        slices, warps = 1, block_m // 16
        block_n = (128 if half else 64) // sets
        block_k = (32 if wide and sets == 2 else 64) if half else 16
    while block_n > 16 and triton.cdiv(N, block_n) * triton.cdiv(R, block_m) < PROGRAMS:
        block_n //= 2
    row = (block_m + sets * block_n) * dtype.itemsize
    if 2 * block_k * row > IN_FLIGHT:
        block_k //= 2
    # Warp groups take their operands from shared memory: rows times the norm go back there.
    normed = block_m * block_k * dtype.itemsize if slices == 1 and sets == 2 else 0
    blocks = {"SLICES": slices, "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k}
    stages = min(6, 1 + (IN_FLIGHT - normed) // (block_k * row))
    return blocks, {"num_warps": warps, "num_stages": stages}


def norm_scale(dtype: torch.dtype) -> float:
    """Keeps x * norm_weight within the range of fp16, where x itself may be up to 65504."""
    return 1 / 16 if dtype == torch.float16 else 1.0


def refuse_gradients(op: str, *tensors: Tensor) -> None:
    """RuntimeError when one of the tensors wants a gradient, which the kernels do not give."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        raise RuntimeError(
            f"{op} has no backward in Triton; run it under torch.no_grad() "
            "or set VIDWM_KERNELS=reference"
        )
