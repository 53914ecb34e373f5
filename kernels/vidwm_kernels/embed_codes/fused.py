"""Rows of a table in Triton: a program copies ROWS rows, 16 bytes a thread at a time."""
# mypy: allow-untyped-defs, allow-incomplete-defs
# (the parameters of kernels are pointers and numbers, which Python's types have no names for)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vidwm_kernels.launch import Launch, run_all

ELEMENTS = 2048  # of a program's tile
WIDEST = 256


@triton.jit
def _gather(
    tokens, table, out, M, K,
    C: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    token = tl.load(tokens + rows, mask=rows < M, other=0)
    inside = (rows < M)[:, None] & (c < C)[None, :]
    known = inside & (token >= 0)[:, None] & (token < K)[:, None]
    value = tl.load(table + token[:, None] * C + c[None, :], mask=known, other=float("nan"))
    tl.store(out + rows[:, None] * C + c[None, :], value, mask=inside)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, table: Tensor) -> Tensor:
        launches, out = plan(tokens, table)
        ctx.save_for_backward(tokens)
        ctx.rows = len(table)
        with torch.cuda.device_of(table):
            run_all(launches)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:
        (tokens,) = ctx.saved_tensors
        total = torch.zeros(ctx.rows, grad.shape[-1], device=grad.device)
        total.index_add_(0, tokens.flatten(), grad.flatten(0, 1).float())
        return None, total.to(grad.dtype)


def embed_codes(tokens: Tensor, table: Tensor) -> Tensor:
    """The operation of the package's `__init__`, as rows (M, N, C)."""
    rows: Tensor = _Rows.apply(tokens, table)
    return rows


def plan(tokens: Tensor, table: Tensor) -> tuple[list[Launch], Tensor]:
    """The launches that compute what `embed_codes` returns, and the tensor they will fill."""
    (K, C), M = table.shape, tokens.numel()
    out = torch.empty((*tokens.shape, C), dtype=table.dtype, device=table.device)
    if not M:
        return [], out
    block_c = min(WIDEST, triton.next_power_of_2(C))
    rows = ELEMENTS // block_c
    launch = Launch(
        kernel=_gather,
        grid=(triton.cdiv(M, rows), triton.cdiv(C, block_c)),
        args={
            "tokens": tokens.contiguous(),
            "table": table.contiguous(),
            "out": out,
            **{"M": M, "K": K},
        },
        constants={"C": C, "ROWS": rows, "BLOCK_C": block_c},
        streams=True,
    )
    return [launch], out
