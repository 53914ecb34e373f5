"""A tile of logits in registers, and what every kernel that makes one is given.

A program computes BLOCK_R x BLOCK_V logits; they are never written.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# (the parameters of kernels are pointers and numbers, which Python's types have no names for)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vidwm_kernels.add_linear.fused import dot, norm_scale
from vidwm_kernels.launch import Launch


@triton.jit
def logits_of(
    hidden, norm_weight, head, legal, rows, ids, R, V, eps, temperature,
    D: tl.constexpr, LEGAL: tl.constexpr, SCALE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """(BLOCK_R, BLOCK_V) logits in fp32, and factors (BLOCK_R,) that make scores of them.

    -inf where illegal or outside of R x V. The factor holds norm and temperature, one number per
    row, so it may wait until after the product. Thresholds are on the logits without it, which are
    the same bits in every pass: a sum over D, as the factor is, need not be.
    """
    row, column = rows.to(tl.int64)[:, None], ids.to(tl.int64)[None, :]
    depth = tl.arange(0, BLOCK_D)
    squares = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
    logits = tl.zeros((BLOCK_R, BLOCK_V), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + depth
        x_mask, y_mask = (row < R) & (d < D)[None, :], (column < V) & (d < D)[:, None]
        x = tl.load(hidden + row * D + d[None, :], mask=x_mask, other=0.0).to(tl.float32)
        y = tl.load(head + column * D + d[:, None], mask=y_mask, other=0.0)
        weight = tl.load(norm_weight + d, mask=d < D, other=0.0).to(tl.float32)
        squares += x * x
        x = (x * (weight * SCALE)[None, :]).to(y.dtype)
        logits = dot(x, y, logits)
    factors = tl.rsqrt(tl.sum(squares, 1) / D + eps) / (temperature * SCALE)
    allowed = (row < R) & (column < V)
    if LEGAL == "shared":
        allowed &= tl.load(legal + ids, mask=ids < V, other=0)[None, :] != 0
    elif LEGAL == "rows":
        allowed &= tl.load(legal + row * V + column, mask=allowed, other=0) != 0
    return tl.where(allowed, logits, float("-inf")), factors


@triton.jit
def or_zero(top):
    """A maximum to subtract: -inf, that of no score at all, would make nan of -inf - -inf."""
    return tl.where(top == float("-inf"), 0.0, top)


@dataclass(frozen=True)
class Head:
    """What every kernel over the head is given: arguments, constants, launch settings."""

    args: dict[str, Any]
    constants: dict[str, Any]
    settings: dict[str, Any]
    grid: tuple[int, int]

    @classmethod
    def of(
        cls,
        hidden: Tensor,
        norm_weight: Tensor,
        head: Tensor,
        legal: Tensor | None,
        R: int,
        eps: float,
        temperature: float,
    ) -> Head:
        """For R rows of `hidden`; the tensors are those of the package's `sample_tokens`."""
        V, D = head.shape
        args = {
            "hidden": hidden.contiguous(),
            "norm_weight": norm_weight.contiguous(),
            "head": head.contiguous(),
            "legal": None if legal is None else legal.contiguous().view(torch.uint8),
            "eps": eps,
            "temperature": temperature,
            **{"R": R, "V": V},
        }
        blocks, settings = tiles(R, V, D, head.dtype)
        seen = "all" if legal is None else "shared" if legal.ndim == 1 else "rows"
        grid = (triton.cdiv(R, blocks["BLOCK_R"]), triton.cdiv(V, blocks["BLOCK_V"]))
        half = head.dtype != torch.float32
        return cls(args, blocks | {"D": D, "LEGAL": seen}, settings | {"matrix": half}, grid)

    def launch(self, kernel: Any, args: dict[str, Any], **constants: Any) -> Launch:
        """One program per tile of rows and ids."""
        return Launch(
            kernel=kernel,
            grid=self.grid,
            args=self.args | args,
            constants=self.constants | constants,
            **self.settings,
        )


def tiles(R: int, V: int, D: int, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constants of the kernels that read the head, then warps and stages.

    Reading the head bounds this operation until R is in the hundreds. Tiles are 128 ids wide, for
    every tile reads all of `hidden` again: 13 % of the head's bytes at R = 16, mostly from L2.
    That leaves few programs (35 at V = 4375), so each keeps two stages of 36 KB in flight, which
    is what one SM can receive and what every GPU since Ampere has room for. From 64 rows on a
    tile of 64 x 128 halves what is read per product, and eight warps keep it in registers.
    fp32 at full precision has no tensor cores; its operands go through registers, so tiles are half
    as wide and pieces of D short.
    """
    half = dtype != torch.float32
    block_r = 16 if R <= 16 else 32 if R <= 32 or not half else 64
    depth = 32 if not half or D % 8 else 128 if block_r < 64 else 64
    constants = {
        "BLOCK_R": block_r,
        "BLOCK_V": min(128 if half else 64, max(16, triton.next_power_of_2(V))),
        "BLOCK_D": min(depth, max(16, triton.next_power_of_2(D))),
        "SCALE": norm_scale(dtype),
    }
    return constants, {"num_warps": 8, "num_stages": 4 if block_r == 64 or not half else 3}
