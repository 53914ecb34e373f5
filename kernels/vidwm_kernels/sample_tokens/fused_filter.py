"""top-k and top-p as thresholds on the logit, found without writing a logit.

The logits of a row are never together in one place, so a threshold is found digit by digit: a pass
over the head counts (top_k) or weighs (top_p) the logits by the next 8 bits of their
order-preserving integer, `_narrow` picks the digit where the threshold lies. Four passes fix its 32
bits, exactly. Weights are summed as integers, so that the order in which programs add them does not
show.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# (the parameters of kernels are pointers and numbers, which Python's types have no names for)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from vidwm_kernels.launch import Launch
from vidwm_kernels.sample_tokens.fused_logits import Head, logits_of, or_zero

# Shares of the distribution in the histograms are integers in steps of the largest one times 2^-40:
# finer than float32, and 2^23 of them fit into 63 bits.
WEIGHT_OF_PEAK = tl.constexpr(2.0**40)


@triton.jit
def _peak(
    hidden, norm_weight, head, legal, peaks, R, V, eps, temperature,
    D: tl.constexpr, LEGAL: tl.constexpr, SCALE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """peaks (R,) of -inf -> the largest logit of every row."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    ids = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    logits, _ = logits_of(
        hidden, norm_weight, head, legal, rows, ids, R, V, eps, temperature,
        D, LEGAL, SCALE, BLOCK_R, BLOCK_V, BLOCK_D,
    )  # fmt: skip
    tl.atomic_max(peaks + rows, tl.max(logits, 1), mask=rows < R, sem="relaxed")


@triton.jit
def _weigh(
    hidden, norm_weight, head, legal, floors, peaks, prefixes, bins, R, V, eps, temperature,
    WEIGHTS: tl.constexpr, SHIFT: tl.constexpr, D: tl.constexpr, LEGAL: tl.constexpr,
    SCALE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """bins (R, 256) of 0 -> how many (or how much) of a row have a digit.

    The digit are the 8 bits from SHIFT on; only logits with all higher bits as in prefixes (R,)
    count, and by WEIGHTS only those from floors (R,) on.
    """
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    ids = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    logits, factors = logits_of(
        hidden, norm_weight, head, legal, rows, ids, R, V, eps, temperature,
        D, LEGAL, SCALE, BLOCK_R, BLOCK_V, BLOCK_D,
    )  # fmt: skip
    bits = logits.to(tl.uint32, bitcast=True)
    # As integers, negative floats stand in reverse and above the positive ones.
    ordered = bits ^ tl.where(bits >> 31 != 0, 0xFFFFFFFF, 0x80000000).to(tl.uint32)
    prefix = tl.load(prefixes + rows, mask=rows < R, other=0).to(tl.uint32, bitcast=True)
    counts = (rows < R)[:, None] & (ids < V)[None, :] & (ordered >> SHIFT >> 8 == prefix[:, None])
    places = bins + rows.to(tl.int64)[:, None] * 256 + ((ordered >> SHIFT) & 255).to(tl.int32)
    if WEIGHTS:
        peak = tl.load(peaks + rows, mask=rows < R, other=0.0)
        floor = tl.load(floors + rows, mask=rows < R, other=0.0)
        shares = tl.exp((logits - or_zero(peak)[:, None]) * factors[:, None])
        weights = shares * WEIGHT_OF_PEAK
        counts &= (logits >= floor[:, None]) & (weights >= 1)
        weights = tl.where(counts, weights, 0.0).to(tl.int64)
        tl.atomic_add(places, weights, mask=counts, sem="relaxed")
    else:
        ones = tl.full((BLOCK_R, BLOCK_V), 1, tl.int64)
        tl.atomic_add(places, ones, mask=counts, sem="relaxed")


@triton.jit
def _narrow(
    bins, prefixes, wanted, floors, R, top_k, top_p,
    WEIGHTS: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Fix the next digit of ROWS rows, and leave their bins empty for the next pass.

    The digit is the largest such that it and the ones above hold what is still wanted. After the
    LAST one, floors (R,) is raised to the threshold.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    digits = tl.arange(0, 256)[None, :]
    places = bins + row.to(tl.int64)[:, None] * 256 + digits
    held = tl.load(places, mask=(row < R)[:, None], other=0)
    total = tl.sum(held, 1)
    if FIRST:
        prefix = tl.zeros((ROWS,), tl.uint32)
        if WEIGHTS:
            want = tl.maximum((total.to(tl.float64) * top_p).to(tl.int64), 1)
        else:
            want = tl.zeros((ROWS,), tl.int64) + top_k
    else:
        prefix = tl.load(prefixes + row, mask=row < R, other=0).to(tl.uint32, bitcast=True)
        want = tl.load(wanted + row, mask=row < R, other=0)
    from_here_up = total[:, None] - tl.cumsum(held, 1) + held
    digit = tl.max(tl.where(from_here_up >= want[:, None], digits, 0), 1)
    prefix = (prefix << 8) | digit.to(tl.uint32)
    if LAST:
        bits = prefix ^ tl.where(prefix >> 31 != 0, 0x80000000, 0xFFFFFFFF).to(tl.uint32)
        threshold = tl.maximum(
            bits.to(tl.float32, bitcast=True), tl.load(floors + row, mask=row < R, other=0.0)
        )
        tl.store(floors + row, threshold, mask=row < R)
        prefix = tl.zeros((ROWS,), tl.uint32)
    else:
        above = tl.sum(tl.where(digits > digit[:, None], held, 0), 1)
        tl.store(wanted + row, want - above, mask=row < R)
    tl.store(prefixes + row, prefix.to(tl.int32, bitcast=True), mask=row < R)
    tl.store(places, tl.zeros((ROWS, 256), tl.int64), mask=(row < R)[:, None])


def thresholds(
    head: Head, R: int, device: torch.device, top_k: int, top_p: float, *, peaks: bool
) -> tuple[list[Launch], dict[str, Any]]:
    """Launches that find the least logit a row keeps, and the tensors they fill.

    top_k 0 and top_p 1 cut nothing. -> "floors" (R,), and "peaks" (R,) of the largest logits if
    those are asked for or needed.
    """
    cuts = {name: torch.full((R,), float("-inf"), device=device) for name in ("floors", "peaks")}
    search = {
        "bins": torch.zeros((R, 256), dtype=torch.int64, device=device),
        "prefixes": torch.zeros(R, dtype=torch.int32, device=device),
    }
    goal = {
        "wanted": torch.empty(R, dtype=torch.int64, device=device),
        "floors": cuts["floors"],
        **{"R": R, "top_k": top_k, "top_p": top_p},
    }
    launches = []
    if top_p < 1 or peaks:
        launches.append(head.launch(_peak, {"peaks": cuts["peaks"]}))
    for weights in [False] * (top_k > 0) + [True] * (top_p < 1):
        for shift in (24, 16, 8, 0):
            launches.append(head.launch(_weigh, cuts | search, WEIGHTS=weights, SHIFT=shift))
            ends = {"WEIGHTS": weights, "FIRST": shift == 24, "LAST": shift == 0, "ROWS": 4}
            grid = (triton.cdiv(R, 4),)
            launches.append(Launch(kernel=_narrow, grid=grid, args=search | goal, constants=ends))
    return launches, cuts
